"""Registries: plugins, recipes, and the catalogue of names."""
