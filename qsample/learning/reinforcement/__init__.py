"""Reinforcement learning by free energy: a Boltzmann machine as a critic."""
