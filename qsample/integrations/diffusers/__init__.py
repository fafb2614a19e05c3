"""Annealed steps in the pipelines of diffusers."""
