"""Data sets that are made here: bars and stripes, and draws of a known spin glass."""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.problem.lattices import open_grid
from qsample.support.checks import plain_seed
from qsample.support.faces import public

SIZED = re.compile(r"(?P<name>bars-and-stripes|planted-ising)(-(?P<rows>\d+)x(?P<columns>\d+))?")


def made(sized: re.Match[str]) -> tuple[Tensor, tuple[int, int]]:
    """Bits and image shape of a data set that is made here, in the size that its name says."""
    side = 4 if sized["name"] == "bars-and-stripes" else 8
    rows = int(sized["rows"] or side)
    columns = int(sized["columns"] or side)
    if sized["name"] == "bars-and-stripes":
        return bars_and_stripes(rows, columns), (rows, columns)
    spins = planted_ising(rows, columns, 5000)[1]
    return spins > 0, (rows, columns)


@public("qsample.data")
def bars_and_stripes(rows: int, columns: int) -> Tensor:
    """The images with all rows or all columns equal, each once (MacKay 2003, ch. 43).

    Returns:
        Bits `[2^rows + 2^columns - 2, rows * columns]`.

    Raises:
        ValueError: a side below 1 or above 16.
    """
    if not (1 <= min(rows, columns) and max(rows, columns) <= 16):
        raise ValueError(f"expected bars-and-stripes of 1x1 to 16x16; got {rows}x{columns}")
    # one row or one column: every pattern is of both kinds
    if min(rows, columns) == 1:
        return _bits(rows * columns)
    stripes = _bits(rows)[:, :, None].expand(-1, rows, columns)
    bars = _bits(columns)[:, None, :].expand(-1, rows, columns)
    # the first and the last pattern, all white and all black, are among the stripes
    return torch.cat([stripes, bars[1:-1]]).flatten(1)


def _bits(n: int) -> Tensor:
    """All states of n bits, `[2^n, n]`."""
    return (torch.arange(1 << n)[:, None] >> torch.arange(n)) & 1


@public("qsample.data")
def planted_ising(
    rows: int,
    columns: int,
    num: int,
    seed: int = 0,
    *,
    couplings: Literal["gaussian", "plus-minus"] = "gaussian",
    beta: float = 0.5,
    field: float = 0.1,
) -> tuple[Ising, Tensor]:
    r"""A known problem on an open grid, and exact draws from it: couplings for a model to recover.

    $J_{ij} = \beta g_{ij}$ and $h_i = \mathrm{field} \cdot g_i$, with g standard normal (Edwards
    and Anderson 1975) or a fair choice of -1 and +1.

    Args:
        rows: number of rows of the grid.
        columns: number of columns of the grid.
        num: number of draws.
        seed: seed of the problem and of the draws, 64 bits.
        couplings: law of g, "gaussian" or "plus-minus".
        beta: scale of the couplings J.
        field: scale of the fields h.

    Returns:
        The problem, in row-by-row order of the spins, and spins `[num, rows * columns]` int8 by
        `Exact`.

    Raises:
        ValueError: a grid without spins, or too wide for exact draws.
    """
    from qsample.annealers import Exact

    if not (1 <= min(rows, columns) <= 20 and rows * columns <= 4096):
        raise ValueError(
            "expected a planted-ising grid with a shorter side of 1 to 20 and at most 4096 spins; "
            f"got {rows}x{columns}"
        )
    if couplings not in ("gaussian", "plus-minus"):
        raise ValueError(f"unknown couplings {couplings!r}; expected one of gaussian, plus-minus")
    graph = open_grid(rows, columns)
    n = graph.num_spins
    generator = torch.Generator().manual_seed(plain_seed(seed))
    g = torch.randn(n + graph.num_edges, generator=generator, dtype=torch.float32)
    if couplings == "plus-minus":
        g = g.sign()
    problem = Ising(graph, field * g[:n], beta * g[n:])
    return problem, Exact().sample(problem, num, generator=generator).spins
