"""Export: the built-in formats, a module each, and what is done with any format."""
