"""What a plugin author implements, and what flows between the stages."""
