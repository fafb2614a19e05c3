"""D-Wave's Ocean tools: dimod's samplers as ours, and ours as dimod's."""
