"""Export: the built-in formats, one module each, and the functions for all formats."""
