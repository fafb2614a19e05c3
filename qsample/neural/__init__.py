"""Markov chains on any energy, a neural network among them."""
