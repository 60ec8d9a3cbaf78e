"""Shrinking: the smallest or the fastest model within a loss of the metric."""
