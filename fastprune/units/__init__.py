"""Which units a model has: architectures as data, resolved on one model."""
