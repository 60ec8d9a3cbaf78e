"""Whole experts out of mixtures: which stay, a smaller model of the same class, its routers calibrated."""
