"""Time, memory and metrics of models."""
