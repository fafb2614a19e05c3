"""A D-Wave quantum processor as a sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsample.annealers.dwave.call import Pending
from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.secret import cleaned
from qsample.annealers.dwave.device import State
from qsample.annealers.dwave.settings import Settings
from qsample.annealers.dwave.submission import submit
from qsample.annealers.dwave.temperature import Track
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, check_request
from qsample.sampling.samples import Samples
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.annealers")
class DWave(Settings):
    r"""Reads of a quantum processor through D-Wave's own client, at the problem's own temperature as far as it goes.

    The processor draws from about $e^{-\beta_c E'}$, E' being what is programmed and beta_c a
    temperature that it does not tell. Each call measures beta_c by maximum pseudo-likelihood and
    programs h and J times one factor, $1/\beta_c$, so that the reads are of $e^{-E}$; where a range
    of the solver forbids that, times the largest factor it allows. The first call on a graph spends
    a pilot of at most 100 reads to begin with.

    The law stays approximate (HEURISTIC): `Corrected(DWave(), Gibbs(10))` is the recommended way to
    train. Nothing is sent before its estimated cost fits the budgets and is on the disk. State
    (temperatures, ledger) goes through `state_dict`; `close()`, or a `with` statement, cancels what
    is outstanding and ends the client's threads.

    `info`: "beta" of the reads (1 is right) and "beta_stderr"; "chip_beta", the state; "scale";
    "range_limited"; "chain_break_fraction"; "gauge" `[*B, G, n]`; "qpu_access_time" in
    microseconds, the pilot's in it; "job_ids"; "ess" `[*B]` where reweighted; "note" where beta is
    undetermined.

    Args:
        solver: a name, or features such as `{"topology__type": "zephyr"}`; None is the configured
            or largest one.
        num_reads: most reads of one job; more are asked for by several jobs, a gauge each.
        annealing_time: microseconds; None is the solver's default.
        chain_strength: of embedded problems, in the problem's units; None compensates the torque of
            each problem.
        parameters: further parameters of the solver, such as `{"readout_thermalization": 10.0}`.
        prefactor: a fixed factor for h and J in place of the measured one.
        gauges: spin-reversal transforms a problem, a job each; 0 leaves the signs as they are.
        repair: of broken chains: the majority's spin, or then a heat-bath step on the broken
            variables.
        reweight: weights to beta 1 by the measured beta; "ess" tells what they leave.
        reverse: anneal schedule `[(us, s), ...]` from s = 1, for calls with `initial`: one job a
            distinct state.
        budget: seconds of access time of the whole run, as the ledger adds it up; None is no limit.
            What is asked before a job is sent is its estimate; the last jobs may cost a little more
            than that.
        budget_per_call: the same of one call, pilot and repeated submissions in it.
        ledger: an append-only file of every submission, which samplers and processes may share, and
            its budget; None keeps it in memory and in checkpoints.
        copies: how often a problem is laid on the chip; None lets the placement choose.
        cache: folder of embeddings.
        drift: relative change of the chip's beta from call to call: what the moving average forgets
            by.
        timeout: seconds from submission to the last answer.
        retries: repetitions of a failed request.
        backoff: seconds before the first; each further one doubles, with jitter.
        fallback: a sampler that serves, with a warning, where the device cannot.
        record: a file where every answer is added.
        replay: a recording that answers in place of the device.
        label: what the service shows beside each job.
        token: of the API; never shown or saved. Default: DWAVE_API_TOKEN or D-Wave's configuration
            file.
        client: further configuration of dwave-cloud-client, such as `{"endpoint": ...}` or
            `{"profile": ...}`.

    Raises:
        DeviceError: one line that says what to do; `BudgetExceeded` before anything is sent.
        ValueError: settings out of range, or a problem that does not fit the chip.
    """

    reversible = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.__dict__["_state"] = State()

    @property
    def warm_start(self) -> bool:
        """Whether `initial` is where reverse anneals begin."""
        return self.reverse is not None

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; all jobs of a batch are submitted before the first is read."""
        return self.submit(problem, num, initial=initial, generator=generator).result()

    def submit(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Pending[Samples]:
        """As `sample`, but without waiting: the jobs are sent, `.result()` gives the reads, `.cancel()` gives them up.

        What a result says of the temperature reaches the submissions that follow it.
        """
        if initial is not None and not self.warm_start:
            raise ValueError(
                "DWave begins each anneal afresh, so `initial` would be ignored: pass "
                "reverse=[(0, 1), (5, 0.5), "
                "(10, 1)] for reverse annealing from it, or use Corrected(DWave(...), Gibbs(...))"
            )
        return submit(
            self, self.state, check_request(self, problem, num, initial), num, initial, generator
        )

    def state_dict(self) -> dict[str, Any]:
        """Temperatures and ledger, for a checkpoint."""
        with self.state.lock:
            tracks = {key: [t.value, t.variance, t.calls] for key, t in self.state.tracks.items()}
        ledger = self.state.ledger(self)
        ledger.refresh()
        return {"temperatures": tracks, "ledger": list(ledger.lines)}

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
        """Cancel what is outstanding, end the client's threads, let go of the files; the next call begins anew."""
        try:
            self.state.close()
        except BaseException as error:
            raise cleaned(error) from None

    def __enter__(self) -> DWave:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def state(self) -> State:
        """What is behind the settings: connection, ledger, temperatures, placements."""
        return self.__dict__["_state"]
