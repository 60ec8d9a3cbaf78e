"""What a model shows on the calibration set: gradients, moments, layer calls, dense states."""
