"""Seeds for the tests."""

import torch


def generator(seed: int = 0) -> torch.Generator:
    """A generator of torch on the CPU, at the beginning of the stream of `seed`."""
    return torch.Generator().manual_seed(seed)
