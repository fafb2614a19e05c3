"""A D-Wave quantum processor as a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from qsample.annealers.dwave import call
from qsample.annealers.dwave.call import Pending
from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.secret import cleaned
from qsample.annealers.dwave.settings import Settings, document
from qsample.annealers.dwave.state import State
from qsample.annealers.dwave.temperature import Track
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public


@public("qsample.annealers")
class DWave(Settings):
    r"""Reads of a quantum processor through D-Wave's own client, at the problem's own temperature.

    The processor draws from about $e^{-\beta_c E'}$, E' being what is programmed and beta_c a
    temperature that it does not tell. Each call measures beta_c by maximum pseudo-likelihood and
    programs h and J times one factor, $1/\beta_c$, so that the reads are of $e^{-E}$; where a range
    of the solver forbids that, times the largest factor it allows. The first call on a graph spends
    a pilot of at most 100 reads to begin with.

    The law stays approximate (HEURISTIC): `Corrected(DWave(), Gibbs(10))` is the recommended way to
    train. Nothing is sent before its estimated cost fits the budgets and is on the disk. State
    (temperatures, ledger) goes through `state_dict`; `close()`, or a `with` statement, cancels what
    is outstanding and ends the client's threads.

    `info`: "beta" of the reads (1 is right) and "beta_stderr"; "chip_beta", the chip's own beta as
    it is followed from call to call; "scale", the factor on h and J; "range_limited";
    "chain_break_fraction"; "gauge" `[*B, G, n]`; "qpu_access_time" in microseconds, the pilot's in
    it, and its "qpu_parts" (programming, anneal, readout, delay); "spent", with the "qpu_seconds"
    that the ledger charges so far; "job_ids"; "ess" `[*B]` where reweighted; "note" where beta is
    undetermined.

    Raises:
        DeviceError: one line that says what to do; `BudgetExceeded` before anything is sent.
        ValueError: settings out of range, or a problem that does not fit the chip.
    """

    name = "dwave"
    about = "a D-Wave processor at the problem's temperature"
    exactness = Exactness.HEURISTIC
    needs = "dwave.system"
    remote = True
    reversible = False
    state: State
    """connection, ledger, temperatures and sites: made at first use, and no setting"""
    irrevocable = True  # what was charged stays charged, also where a training step is given up

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "state", State())

    @property
    def warm_start(self) -> bool:
        """Whether `initial` is where reverse anneals begin."""
        return self.reverse is not None

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; all jobs of a batch are submitted before the first is read.

        Args:
            problem: a problem, or a batch `*B` of them on one graph.
            num: number of reads of each problem.
            initial: states `[*B, num, n]` where reverse anneals begin; None anneals forward.
            generator: source of the gauges; None is torch's default generator.
        """
        samples = self.submit(problem, num, initial=initial, generator=generator).result()
        with suppress(DeviceError):  # a fallback serves where the ledger cannot be read
            info = {**samples.info, "spent": {"qpu_seconds": self.spent}}
            samples = replace(samples, info=info)
        return samples

    def submit(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Pending[Samples]:
        """As `sample`, but without waiting: the jobs are sent, and `.result()` gives the reads.

        `.cancel()` gives them up. What a result says of the temperature reaches the submissions
        that follow it.

        Args:
            problem: a problem, or a batch `*B` of them on one graph.
            num: number of reads of each problem.
            initial: states `[*B, num, n]` where reverse anneals begin; None anneals forward.
            generator: source of the gauges; None is torch's default generator.
        """
        if initial is not None and not self.warm_start:
            raise ValueError(
                "DWave begins each anneal afresh, so `initial` would be ignored: pass "
                "reverse=[(0, 1), (5, 0.5), (10, 1)] for reverse annealing from it, or use "
                "Corrected(DWave(...), Gibbs(...))"
            )
        problem = check_request(self, problem, num, initial)
        return call.submit(self, self.state, problem, num, initial, generator)

    def state_dict(self) -> dict[str, Any]:
        """Temperatures and ledger, for a checkpoint."""
        with self.state.lock:
            temperatures = {
                key: [track.value, track.variance, track.calls]
                for key, track in self.state.tracks.items()
            }
        ledger = self.state.ledger(self)
        ledger.refresh()
        return {"temperatures": temperatures, "ledger": list(ledger.lines)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's state; what the ledger's file holds beyond it stays charged.

        Raises:
            DeviceError: temperatures or charges that cannot be; nothing is taken up.
        """
        try:
            tracks = {str(key): Track.of(values) for key, values in state["temperatures"].items()}
            lines = [str(line) for line in state["ledger"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DeviceError(
                "the checkpoint's temperatures are damaged: take up another"
            ) from None
        self.state.ledger(self).merge(lines)
        with self.state.lock:
            self.state.tracks.clear()
            self.state.tracks.update(tracks)

    @property
    def spent(self) -> float:
        """Seconds of QPU access time that the ledger charges so far."""
        return self.state.ledger(self).spent / 1e6

    def close(self) -> None:
        """Cancel what is outstanding, end the client's threads, let go of the files.

        The next call begins anew.
        """
        try:
            self.state.close()
        except BaseException as error:
            raise cleaned(error) from None

    def __enter__(self) -> DWave:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


document(DWave)
