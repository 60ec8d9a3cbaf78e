"""The command line: a command a module, each a thin layer over a public Python call."""
