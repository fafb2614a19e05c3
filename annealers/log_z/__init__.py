"""Log Z: a path from independent spins to a problem, ladders of replicas on it, and ratios."""
