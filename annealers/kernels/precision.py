r"""How precise local fields must be: single precision decides spins rightly, or double, or none.

A field $f_i = h_i + \sum_j J_{ij} s_j$ is a sum that is rounded to $2^{-24}$ (single precision) or
$2^{-53}$ (double) of its largest value $F = \max_i (|h_i| + \sum_j |J_{ij}|)$, and a spin is
decided by the logit $2 \beta f$. Where $F$ is large that is not small beside 1, and other spins are
drawn than the problem's. So single precision serves up to $\beta F = 2^{13}$ and double up to
$2^{42}$: one rounding then moves a logit by $2^{-10}$ at most, and a probability by $2^{-12}$.
Colder than beta 1, where only annealers go and none claims a law, single precision serves up to
$\beta F = 2^{19}$. Nor does any rounding happen where all h and J are multiples of one number that
$F$ holds no more than $2^{24}$ (or $2^{53}$) times, such as integers: then single (or double)
precision serves at any beta.

The native kernels, which take h and J in single precision, round each of them to a whole number of
units of at most $2^{-26} F$ instead of their sums (see `native`): where $\beta F = 2^{13}$ each
coupling then moves a logit by $2^{-13}$ at most, no more than in sums of single precision. Whole
multiples as above are whole numbers of units too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qsample.annealers.kernels.update import Precision, is_full
from qsample.problem.ising import Ising
from qsample.problem.sizes import largest

SINGLE = 2.0**13  # the largest F in single precision
COLD = 2.0**19  # and the largest beta F
DOUBLE = 2.0**42  # both in double


class Wide(NamedTuple):
    """Problems of a batch that single precision does not serve, each `[P]` bool on the CPU."""

    fields: Tensor  # whose fields are to be summed in double precision
    energies: Tensor  # whose energies are, even where their fields have no rounding


def wide_problems(problem: Ising, coldest: float = 1.0) -> Wide | None:
    """The problems that need more than single precision at betas up to `coldest`, if any do.

    Raises:
        ValueError: fields so large that double precision does not serve either.
    """
    bound = _bound(problem)
    if bound <= SINGLE and bound * coldest <= COLD:
        return None
    sizes = field_sizes(problem)
    _refuse_above(DOUBLE, sizes, 1.0)
    fields = (sizes > SINGLE) | (sizes * coldest > COLD)
    if fields.any():
        fields = fields & ~_exact(problem, sizes, 24)
    hopeless = sizes * coldest > DOUBLE
    if (hopeless & fields).any():
        _refuse_above(DOUBLE, sizes.where(hopeless & ~_exact(problem, sizes, 53), 0.0), coldest)
    energies = (sizes > SINGLE) | fields
    return Wide(fields, energies) if energies.any() else None


def check_sizes(problem: Ising) -> None:
    """ValueError where fields are so large that not even double precision tells energies apart."""
    if _bound(problem) > DOUBLE:
        _refuse_above(DOUBLE, field_sizes(problem), 1.0)


def field_sizes(problem: Ising) -> Tensor:
    r"""The largest local field of any state, $\max_i |h_i| + \sum_j |J_{ij}|$, `[P]` float64."""
    graph = problem.graph
    wide = torch.float64
    h, J = _numbers(problem)
    J = J.abs()
    if graph.kind == "sparse":
        i, j = graph.pairs.to(J.device)
        reach = J.new_zeros(len(J), graph.num_spins, dtype=wide)
        reach = reach.index_add_(1, i, J.to(wide)).index_add_(1, j, J.to(wide))
    elif graph.kind == "bipartite":
        reach = torch.cat([J.sum(-1, dtype=wide), J.sum(-2, dtype=wide)], -1)
    else:
        reach = J.sum(-1, dtype=wide)
    return (h.abs().to(wide) + reach).amax(-1).cpu()


def working(problem: Ising, coldest: float = 1.0, precision: Precision = "full") -> Ising:
    """The problem in the dtype of torch kernels: single at least, double where that is needed.

    Args:
        problem: any problems.
        coldest: the largest beta of all sweeps.
        precision: number format of the products; "full" (or "fixed16") alone may be double.

    Raises:
        ValueError: fields beyond double precision, or beyond single where "bfloat16" is asked for.
    """
    if wide_problems(problem, coldest) is None:
        narrow = problem.dtype in (torch.float16, torch.bfloat16)
        return problem.to(dtype=torch.float32) if narrow else problem
    if not is_full(precision):
        raise ValueError(
            f"precision {precision!r} is too coarse for fields that single precision cannot "
            "hold: use 'full'"
        )
    return problem.to(dtype=torch.float64)


def _numbers(problem: Ising) -> tuple[Tensor, Tensor]:
    """Fields `[P, n]` and J `[1 or P, ...]`, on the CPU where a device has no double precision."""
    flat = problem.detach().flat()
    if problem.device.type == "mps":
        flat = flat.to("cpu")
    return flat.h, flat.J


def _bound(problem: Ising) -> float:
    """A number that no field of the batch exceeds, found fast."""
    graph = problem.graph
    if graph.kind == "sparse":
        degree = graph.cached(
            "most neighbours", lambda: int(graph.degree.max()) if graph.num_spins else 0
        )
    else:
        degree = max(graph.sizes)
    sizes = largest(problem)
    return sizes.h + degree * sizes.J


def _exact(problem: Ising, sizes: Tensor, bits: int) -> Tensor:
    """Whether sums of a problem's h and J have no rounding in floats of so many bits, `[P]`."""
    _, exponent = torch.frexp(sizes)
    unit = torch.ldexp(torch.ones_like(sizes), exponent - bits)
    h, J = _numbers(problem)

    def whole(t: Tensor) -> Tensor:
        units = t.flatten(1).double() / unit[:, None].to(t.device)
        return (units == units.round()).all(-1).cpu()

    return whole(h) & whole(J)


def _refuse_above(limit: float, sizes: Tensor, coldest: float) -> None:
    """ValueError for the problem of the largest field, where that times `coldest` is beyond."""
    k = int(sizes.argmax())
    if sizes[k] * coldest <= limit:
        return
    which = f"problem {k} of the batch has" if len(sizes) > 1 else "the problem has"
    beta = "" if coldest == 1 else f" at beta {coldest:g}"
    raise ValueError(
        f"{which} local fields of up to {float(sizes[k]):g}{beta}: beyond {limit / coldest:.2g} "
        "not even double precision tells neighbouring states apart: scale it down, as by "
        f"problem.scale({_factor(sizes[k]):g})"
    )


def _factor(size: Tensor) -> float:
    """A power of ten that brings a size to about 1."""
    exponent = 308.0 if size.isinf() else float(size.log10().floor())
    return 10.0**-exponent
