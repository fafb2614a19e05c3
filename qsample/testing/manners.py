"""What a call returns and leaves alone: shapes, energies, fresh memory, seeds, refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.random import Generators, mix
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public
from qsample.testing.problems import alone, twins

# An energy may be off by this times |offset| + sum |h| + sum |J|.
ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-6, torch.float16: 1e-2, torch.bfloat16: 8e-2}


@public("qsample.testing")
class ContractError(AssertionError):
    """A sampler broke the contract; the message names the case, the p-value and the seed."""


class Watched:
    """A sampler whose every call is looked at: its result, and what a call must leave as it was.

    Args:
        sampler: the sampler under test.
        seed: the seed of the generators of its calls.
    """

    def __init__(self, sampler: Sampler, seed: int) -> None:
        self.sampler = sampler
        self.seed = seed
        self.calls = 0
        self.name = type(sampler).__name__
        # held, so that its memory is not used again
        self._last: tuple[Samples, Tensor] | None = None

    def where(self, label: str) -> str:
        """How a message begins."""
        return f"{self.name} on {label!r}, seed {self.seed}"

    def generator(self) -> torch.Generator:
        """The generator of the next call."""
        self.calls += 1
        return torch.Generator().manual_seed(mix(self.seed, self.calls))

    def __call__(
        self,
        label: str,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """A call with a generator, the next of our own if none is given."""
        given = self.generator() if generator is None else generator
        world = _world()
        samples = self.watched(label, problem, num, initial, given)
        touched = [name for name, state in _world().items() if state != world[name]]
        if touched:
            raise ContractError(
                f"{self.where(label)}: a call with a generator changed the random state of "
                f"{touched[0]}: draw from the generator alone"
            )
        return samples

    def watched(
        self,
        label: str,
        problem: Ising,
        num: int,
        initial: Samples | None,
        generator: Generators | None,
    ) -> Samples:
        """A call with just this generator, and the looks at its result.

        Args:
            label: the case's name in messages.
            problem: the problem or batch.
            num: number of reads.
            initial: the chains to continue, or None.
            generator: the generator, a list of them, or None for torch's own.

        Raises:
            ContractError: a wrong result, or an argument or an earlier result that was changed.
        """
        where = self.where(label)
        before = _copies(problem, initial)
        samples = self.sampler.sample(problem, num, initial=initial, generator=generator)
        check_values(where, problem, samples, num)
        for name, copy in before.items():
            if not _same(copy, _tensors(problem, initial)[name]):
                raise ContractError(
                    f"{where}: the call changed its own argument, {name}: work on a copy"
                )
        self._check_memory(where, problem, samples, initial)
        return samples

    def _check_memory(
        self, where: str, problem: Ising, samples: Samples, initial: Samples | None
    ) -> None:
        own = _memory(_results(samples))
        for name, tensor in _results(samples).items():
            if any(
                size > 1 and step == 0
                for size, step in zip(tensor.shape, tensor.stride(), strict=True)
            ):
                raise ContractError(
                    f"{where}: rows of {name} share their memory: return fresh tensors"
                )
        if len(own) < len(_results(samples)):
            raise ContractError(
                f"{where}: two parts of the result share their memory: return fresh tensors"
            )
        for name, tensor in _tensors(problem, initial).items():
            if tensor.untyped_storage().data_ptr() in own:
                raise ContractError(
                    f"{where}: the result shares the memory of {name}: return fresh tensors"
                )
        if self._last is not None:
            last, spins = self._last
            if own & _memory(_results(last)):
                raise ContractError(
                    f"{where}: two calls share the memory of their spins: return fresh tensors"
                )
            if not torch.equal(last.spins, spins):
                raise ContractError(
                    f"{where}: the call changed the result of the call before: return fresh tensors"
                )
        self._last = samples, samples.spins.clone()


def _world() -> dict[str, bytes | int]:
    """The random state of the process, nobody's to touch who was given a generator.

    (Python's own is left out: type checkers of the beartype kind draw from it.)
    """
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": hash((numpy[1].tobytes(), *numpy[2:])),
    }


def _tensors(problem: Ising, initial: Samples | None) -> dict[str, Tensor]:
    named = {"h": problem.h, "J": problem.J, "offset": problem.offset}
    if initial is None:
        return named
    carried = {f"initial.carry[{k!r}]": v for k, v in (initial.carry or {}).items()}
    return named | {f"initial.{k}": v for k, v in _results(initial).items()} | carried


def _results(samples: Samples) -> dict[str, Tensor]:
    weight = {} if samples.log_weight is None else {"log_weight": samples.log_weight}
    return {"spins": samples.spins, "energy": samples.energy, **weight}


def _copies(problem: Ising, initial: Samples | None) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _tensors(problem, initial).items()}


def _memory(tensors: Mapping[str, Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


# ---- one result ----------------


def check_values(where: str, problem: Ising, samples: object, reads: int) -> None:
    """Shapes, types, energies, weights, tag and info of one result.

    Args:
        where: how a message begins.
        problem: the problem or batch that was asked.
        samples: the result.
        reads: number of reads that were asked for.

    Raises:
        ContractError: the first part that is not as the contract has it.
    """
    if not isinstance(samples, Samples):
        raise ContractError(f"{where}: expected Samples; got {type(samples).__name__}")
    expected = (*problem.batch_shape, reads, problem.num_spins)
    spins = samples.spins
    energy = samples.energy
    if spins.shape != expected or spins.dtype != torch.int8:
        raise ContractError(
            f"{where}: expected int8 spins {list(expected)}; got {spins.dtype} {list(spins.shape)}"
        )
    if not (spins.abs() == 1).all():
        raise ContractError(f"{where}: expected spins of -1 and +1 only")
    for tensor in _results(samples).values():
        if tensor.device != problem.device or tensor.requires_grad:
            raise ContractError(
                f"{where}: expected detached results on the problem's device and in its dtype"
            )
    if energy.dtype != problem.dtype:
        raise ContractError(
            f"{where}: expected detached results on the problem's device and in its dtype"
        )
    _check_energy(where, problem, spins, energy)
    if not isinstance(samples.exactness, Exactness):
        raise ContractError(f"{where}: expected an Exactness tag; got {samples.exactness!r}")
    _check_weight(where, samples)
    _check_info(where, samples)


def _check_energy(where: str, problem: Ising, spins: Tensor, energy: Tensor) -> None:
    wide = problem.detach().to(dtype=torch.float64)
    couplings = problem.graph.edge_values(wide.J).abs().sum(-1)
    scale = (wide.offset.abs() + wide.h.abs().sum(-1) + couplings)[..., None]
    error = (energy.double() - wide.energy(spins)).abs()
    if not (error <= ROUNDING[problem.dtype] * scale).all():
        worst = float(error.max())
        raise ContractError(
            f"{where}: the energies are not those of the spins (off by up to {worst:.3g})"
        )


def _check_weight(where: str, samples: Samples) -> None:
    weight = samples.log_weight
    if weight is None:
        return
    if not weight.is_floating_point() or weight.isnan().any() or (weight == torch.inf).any():
        raise ContractError(
            f"{where}: expected log weights that are numbers or -inf; got {weight.dtype} with "
            "others"
        )
    if not weight.isfinite().any(-1).all():
        raise ContractError(f"{where}: every read of a problem has weight 0")
    if samples.exactness is Exactness.EXACT:
        raise ContractError(
            f"{where}: the reads are tagged EXACT and weighted: exact draws count alike"
        )


def _check_info(where: str, samples: Samples) -> None:
    if not isinstance(samples.info, Mapping):
        raise ContractError(
            f"{where}: expected info as a mapping; got {type(samples.info).__name__}"
        )
    for name, (low, high) in {
        "acceptance": (0, 1),
        "swap_rate": (0, 1),
        "ess": (0, math.inf),
    }.items():
        if name in samples.info:
            value = torch.as_tensor(samples.info[name]).double()
            if not ((low <= value) & (value <= high)).all():
                raise ContractError(
                    f"{where}: info[{name!r}] = {samples.info[name]!r} is not between {low} and "
                    f"{high}"
                )


# ---- seeds ----------------


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _equal(a: Samples, b: Samples) -> bool:
    first = _results(a)
    second = _results(b)
    if first.keys() != second.keys():
        return False
    return all(torch.equal(first[name], second[name]) for name in first)


def check_seeds(ask: Watched, label: str, problem: Ising, num: int = 64) -> None:
    """The generator decides the reads: equal seeds equal reads, other seeds other ones.

    Args:
        ask: the sampler.
        label: the case's name in messages.
        problem: a problem of many states.
        num: number of reads, so many that two sets are never equal by chance.

    Raises:
        ContractError: the reads do not depend on the generator, or on more than it.
    """
    name = ask.name
    seed = ask.seed
    seeds = [2 * seed, 2 * seed + 1, 2 * seed + (1 << 20)]
    answers = [ask(label, problem, num, generator=_seeded(s)) for s in seeds]
    for k, answer in enumerate(answers):
        for j in range(k):
            if torch.equal(answer.spins, answers[j].spins):
                raise ContractError(
                    f"{name}: calls with seeds {seeds[j]} and {seeds[k]} return the same {num} "
                    "reads"
                )
    for s, answer in zip(seeds, answers, strict=True):
        if not _equal(answer, ask(label, problem, num, generator=_seeded(s))):
            raise ContractError(
                f"{name}: two calls with seed {s} return other reads: "
                "draw from the generator alone, keep no state; "
                "or check_sampler(..., skip={'seeds'}) for a sampler that takes no seed"
            )
    both = _seeded(seeds[0])
    first = ask(label, problem, num, generator=both).spins
    second = ask(label, problem, num, generator=both).spins
    if torch.equal(first, second):
        raise ContractError(
            f"{name}: two calls on one generator return the same {num} reads: it was not advanced"
        )
    _check_default(ask, label, problem, num)


def _check_default(ask: Watched, label: str, problem: Ising, num: int) -> None:
    """Without a generator: `torch.manual_seed` decides, and calls advance it."""
    answers = []
    for s in (ask.seed, ask.seed, ask.seed + 1):
        torch.manual_seed(s)
        answers.append(ask.watched(label, problem, num, None, None))
    following = ask.watched(label, problem, num, None, None)
    if not _equal(answers[0], answers[1]):
        raise ContractError(
            f"{ask.name}: without a generator, torch.manual_seed does not decide the reads"
        )
    for other in (answers[0], following):
        if torch.equal(other.spins, answers[2].spins):
            raise ContractError(
                f"{ask.name}: without a generator, two calls return the same {num} reads"
            )


def check_alone(ask: Watched, label: str, problem: Ising, num: int) -> None:
    """Problem k of a batch draws what it draws alone with its own generator of the list.

    Args:
        ask: the sampler.
        label: the case's name in messages.
        problem: a batch; a problem without one is asked as two alike.
        num: number of reads.

    Raises:
        ContractError: a problem draws other reads than alone.
    """
    batch = problem if problem.batch_shape else twins(problem)
    seeds = [mix(ask.seed, 7000 + k) for k in range(batch.batch_shape.numel())]
    together = ask(label, batch, num, generator=[_seeded(s) for s in seeds])
    rows = together.spins.reshape(-1, num, problem.num_spins)
    for k in sorted({0, 1, len(seeds) - 1} & set(range(len(seeds)))):
        single = ask(label, alone(batch, k), num, generator=_seeded(seeds[k]))
        if not torch.equal(rows[k], single.spins):
            raise ContractError(
                f"{ask.where(label)}: problem {k} of a batch with a list of generators draws "
                "other reads than alone with its own; or check_sampler(..., skip={'alone'}) for a "
                "sampler that does not promise it"
            )


# ---- requests that must be refused ----------------


def check_refusals(ask: Watched, problem: Ising) -> None:
    """Bad requests raise ValueError; ContractError names the first that does not."""
    single = alone(problem)
    n = single.num_spins
    bad = Ising(single.graph, single.h * math.nan, single.J, single.offset)
    hot = Ising(single.graph, single.h, single.J, single.offset * 0 + math.inf)
    wrong = Samples(torch.ones(3, n + 1, dtype=torch.int8), torch.zeros(3))
    short = Samples(torch.ones(2, n, dtype=torch.int8), torch.zeros(2))
    requests: dict[str, tuple[Ising, Any, Samples | None]] = {
        "num=0": (single, 0, None),
        "num=-1": (single, -1, None),
        "NaN fields": (bad, 4, None),
        "an infinite offset": (hot, 4, None),
        "a misshapen initial": (single, 3, wrong),
        "an initial of another number of reads": (single, 3, short),
    }
    if single.graph.num_edges:
        torn = Ising(single.graph, single.h, single.J * math.nan, single.offset)
        requests["NaN couplings"] = (torn, 4, None)
    if not ask.sampler.warm_start:
        fitting = Samples(torch.ones(3, n, dtype=torch.int8), torch.zeros(3))
        requests["an initial, which it cannot continue,"] = (single, 3, fitting)
    for what, (p, num, initial) in requests.items():
        try:
            ask.sampler.sample(p, num, initial=initial)
        except ValueError:
            continue
        raise ContractError(
            f"{ask.name}: expected a ValueError for {what}; "
            "qsample.sampling.sampler.check_request raises it"
        )
