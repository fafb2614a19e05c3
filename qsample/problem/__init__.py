"""What is sampled: the Ising problem, its graph, and what can be enumerated of it."""
