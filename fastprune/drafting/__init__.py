"""Drafting an architecture for an unknown family by running a model of it."""
