"""Diffusion models whose reverse steps are Ising problems."""
