"""Samplers and composites, loaded at first use."""
