"""Data collected on the calibration set: gradients, moments, layer calls, dense states."""
