"""Names to objects: plugins, recipes, the catalogue."""
