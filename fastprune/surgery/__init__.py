"""From a mask to a smaller model."""
