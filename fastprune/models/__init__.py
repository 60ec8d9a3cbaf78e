"""Open, save and push models."""
