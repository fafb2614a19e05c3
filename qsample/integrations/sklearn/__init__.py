"""Boltzmann machines as scikit-learn's estimators."""
