"""Samples become weights: the gradient, and training that survives being stopped."""
