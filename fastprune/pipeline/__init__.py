"""prune() and sweep(). Start reading at prune.py."""
