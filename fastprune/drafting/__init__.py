"""An architecture found by running a model."""
