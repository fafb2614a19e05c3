"""Gibbs sampling: chains of heat-bath sweeps at the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qsample.annealers.kernels.betas import Constant, listed
from qsample.annealers.kernels.results import passed_on
from qsample.annealers.kernels.sweeper import Sweeper, check_time_limit, clock
from qsample.annealers.kernels.update import Precision, Scan, is_full
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_choice, whole_settings
from qsample.support.faces import public


@public("qsample.annealers")
@dataclass(frozen=True)
class Gibbs:
    """Chromatic heat bath (block Gibbs) at constant temperature, for any batch of problems.

    Starts from `initial` or from uniform random spins; every spin is redrawn from P(s_i = +1 |
    rest) = sigmoid(-2 f_i) once per sweep (Geman and Geman 1984). On a bipartite graph the right
    side (hidden units) comes first.

    Args:
        sweeps: number of sweeps per call.
        scan: order of the visits: "forward", or "palindromic", the groups forward and back, which
            makes the kernel reversible.
        precision: number format of the local fields. "full" is single precision, or double where
            the problem needs it; on the CPU whole numbers of 2^-27 of the largest field take the
            place of single precision (`kernels.native` has the law). "bfloat16" rounds the weights
            of a bipartite problem to 8 bits for the matrix products (for GPUs: on a CPU full
            precision is as fast), and the reads are HEURISTIC. "fixed16" is another name of "full":
            the CPU decides spins in 16 bits wherever that is sure to give the same spin.
        betas: inverse temperatures, one per sweep, which then count instead of `sweeps`; None is
            `sweeps` sweeps at 1. Unless all are 1 the reads are HEURISTIC.
        first_replica: number of the first read among all that one seed draws: reads 0, 1, ... of a
            call with `first_replica=8` are reads 8, 9, ... of one without, started alike, bit for
            bit; so chains of one run may be spread over processes (`learning.distributed`). For
            sparse and bipartite problems on the CPU.
        time_limit: seconds after which a call (but one of milliseconds) ends with the present
            sweeps and returns what is done; None is no limit. Reads are swept in blocks, so some
            may have all their sweeps and some none: `info["done"]` `[*B, num]` says it. Sweeps that
            are not reached cost nothing: ask for 10**12.

    Raises:
        ValueError: a setting that is none of these.
    """

    sweeps: int = 100
    scan: Scan = "forward"
    precision: Precision = "full"
    betas: Sequence[float] | None = None
    time_limit: float | None = None
    # no part of what a run's checkpoint calls its sampler
    first_replica: int = field(default=0, repr=False)

    name = "gibbs"
    about = "chromatic heat bath at the target; continues chains"
    exactness = Exactness.ASYMPTOTIC

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1, first_replica=0)
        check_choice("scan", self.scan, Scan)
        check_choice("precision", self.precision, Precision)
        check_time_limit(self.time_limit)
        if self.betas is not None:
            listed(self.betas)

    @property
    def warm_start(self) -> bool:
        """Whether chains are continued: not where the first beta is 0, which draws spins anew."""
        return self.betas is None or self.betas[0] > 0

    @property
    def reversible(self) -> bool:
        """Whether the palindromic scan was chosen, at the target throughout."""
        return self.scan == "palindromic" and self._valid

    @property
    def _valid(self) -> bool:
        """Whether the kernel leaves the problem's law invariant."""
        at_target = self.betas is None or all(beta == 1 for beta in self.betas)
        return is_full(self.precision) and at_target

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` reads of each problem; weights of `initial` are kept.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: chains to continue, `[*B, num, n]`; None starts from uniform random spins.
            generator: randomness, as in `Sampler.sample`.

        Raises:
            ValueError: as `check_request` says, or fields beyond the precision.
        """
        problem = check_request(self, problem, num, initial)
        alive = clock(self.time_limit)
        betas = Constant(int(self.sweeps)) if self.betas is None else listed(self.betas)
        sweeper = Sweeper(
            problem,
            num,
            draw_seeds(generator, problem.batch_shape),
            None if initial is None else initial.spins,
            scan=self.scan,
            precision=self.precision,
            coldest=betas.coldest,
            alive=alive,
            first_replica=self.first_replica,
        )
        sweeper.run(betas)
        spins, energy = sweeper.reads()
        weight, family = passed_on(initial)
        info: dict[str, Any] = {"sweeps": betas.count}
        if alive is not None:
            info["done"] = sweeper.done.reshape(energy.shape)
        if not self._valid:
            return Samples(spins, energy, None, Exactness.HEURISTIC, info, family=family)
        return Samples(spins, energy, weight, Exactness.ASYMPTOTIC, info, family=family)
