"""Where a law may have modes, and whether an annealing run misses one."""
