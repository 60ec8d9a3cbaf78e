"""Layer by layer toward the dense model."""
