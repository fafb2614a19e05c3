"""Samplers made of samplers."""
