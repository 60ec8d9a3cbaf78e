"""Layer-by-layer reconstruction toward the dense model."""
