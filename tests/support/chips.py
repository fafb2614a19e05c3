"""A chip, and the comparison of two placements on it."""

import torch

from qsample.annealers.dwave.chip.chip import Chip

ZEPHYR = Chip.perfect("zephyr", 3)


def same(ours, theirs):
    """Whether two placements have the same chains and the same ten tensors."""
    tensors = [name for name, value in vars(ours).items() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 10
    return (
        (ours.qubits, ours.chains, ours.copies) == (theirs.qubits, theirs.chains, theirs.copies)
    ) and all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in tensors)
