from collections.abc import Sequence

import numpy as np
import torch

def fill_uniform(out: np.ndarray | torch.Tensor, seeds: np.ndarray | torch.Tensor, start: int) -> None:
    """Fill `out` [P, N] with words start .. start + N - 1 of the Philox4x32-10 stream of each seed [P].

    A word becomes `(k + 0.5) * 2**-23` with k its top 23 bits: strictly inside (0, 1), exact in float32.
    The stream of a seed does not depend on how it is split into calls, nor on the other rows.

    Args:
        out: C-contiguous CPU float32, written in place.
        seeds: C-contiguous CPU int64 or uint64, the 64 bits of each row's key.
        start: the first word, >= 0.
    """

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """One block of four 32-bit words: Philox4x32-10 of four counter words and two key words."""
