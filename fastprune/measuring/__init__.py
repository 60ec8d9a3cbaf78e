"""Measuring time, memory and metrics of models."""
