"""The moving parts of a training run: one update, its metrics, and the state that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import stat
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsample.evaluation.likelihood import log_likelihood, pseudo_log_likelihood
from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError
from qsample.learning.contrastive import ContrastiveDivergence
from qsample.learning.divergence import Diverged, Judge, check_precision, strength
from qsample.learning.saved import fault_of
from qsample.learning.settings import Settings
from qsample.models.registry import architecture
from qsample.problem.enumeration import num_enumerated
from qsample.sampling.mixing import chain_ess
from qsample.sampling.sampler import Sampler, check_is_sampler, mix
from qsample.sampling.samples import ReliabilityWarning
from qsample.sampling.temperature import beta_of_reads
from qsample.support.files import FolderLock
from qsample.support.interrupts import Stopper

if TYPE_CHECKING:
    from qsample.models import EnergyModel

WINDOW = 64  # updates over which the chains' autocorrelation is measured
STICKY = 16  # updates of autocorrelation from which on the chains are said not to move
METRICS = "metrics.jsonl"


def strict_json(value: Any) -> str:
    """JSON that every reader takes: what is infinite or undefined becomes null."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


class Run:
    """The moving parts of one training run."""

    def __init__(
        self,
        model: EnergyModel,
        data: Tensor,
        sampler: Sampler,
        settings: Settings,
        validation: Tensor | None,
        out: Path | None,
        config: dict[str, Any] | None,
    ) -> None:
        check_precision(model)
        check_is_sampler(sampler)
        settings = settings.resolved(sampler)
        assert settings.start != "auto"
        self.model = model
        self.data = data
        self.settings = settings
        self.out = out
        self.config = {} if config is None else config
        self.keeps_config = config is None  # on resume: the checkpoint's
        self.validation = data if validation is None else model.check_rows(validation, "validation")
        self.cd = ContrastiveDivergence(
            model,
            sampler,
            start=settings.start,
            num=settings.chains,
            centred=settings.centred,
            generator=torch.Generator(),
        )
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
        self.optimizer = make(
            model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.update = 0
        self.history = []
        self.energies: list[Tensor] = []
        self.pending: dict[str, Any] | None = None  # metrics that wait for their likelihood
        self.former: list[dict[str, Any]] = []  # settings of the runs that this one continues
        self.began = time.perf_counter()
        self.board = None
        self.lock: FolderLock | None = None
        self.stopper = Stopper()
        self.judge = Judge(model, data, settings.seed)
        self.judged = self.saved = -1  # the last update that was
        self.said: set[str] = set()  # doubts that were told
        self._size = 0  # of the metrics' file
        # what the present update moves before it is done
        self._before: dict[str, Any] | None = None
        moving = dict(model.named_buffers()).keys() & model.state_dict().keys()
        self._buffers = {name: model.get_buffer(name) for name in sorted(moving)}

    # ---- the folder ----------------

    def open(self, resume: bool) -> None:
        """Prepare the folder, or take up the checkpoint in it."""
        if self.out is None:
            return
        self._take_folder()
        if (self.out / checkpoint.LATEST).exists():
            if not resume:
                raise ValueError(
                    f"{self.out} already holds a run: resume it, or choose another output folder"
                )
            self.restore(checkpoint.load(self.out))
        self._begin_records()

    def _take_folder(self) -> None:
        """Make the folder if need be, and keep other runs out of it."""
        assert self.out is not None
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self.lock = FolderLock(self.out)
        except OSError as error:
            reason = f"{error.strerror}; choose another output folder"
            raise ValueError(f"cannot write to {self.out}: {reason}") from None

    def _begin_records(self) -> None:
        """The whole history, in the metrics' file and for TensorBoard."""
        assert self.out is not None
        self.record("w", self.history)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.board = SummaryWriter(self.out / "tensorboard", purge_step=self.update)

    def _keep_folder(self) -> None:
        """Notice that the folder was deleted or replaced in mid-run: nothing is lost, or the run stops.

        A deleted folder is made again, with all metrics and a checkpoint, and a warning says so.
        One that was replaced is taken if it holds no run.

        Raises:
            ValueError: another run writes the folder now, or its files stand in it.
        """
        if self.out is None or self.lock is None or self.lock.intact():
            return
        self.lock.release()
        self._take_folder()
        if (self.out / checkpoint.LATEST).exists() and not self._is_ours():
            raise ValueError(
                f"{self.out} was replaced in mid-run by a folder with another run: "
                f"stopped after update {self.update}, and nothing was written to it"
            )
        text = f"{self.out} was deleted or replaced in mid-run: it is made anew, with all metrics"
        if self.board is not None:
            self.board.close()
            self.board = None
        self._begin_records()
        if self.board is not None:
            for metrics in self.history:
                self._draw(metrics)
        warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _is_ours(self) -> bool:
        """Whether the checkpoint in the folder is an earlier one of this run: its lock's file alone was lost."""
        assert self.out is not None
        try:
            return self.saved >= 0 and checkpoint.last_step(self.out) == self.saved
        except CheckpointError:
            return False

    def record(self, mode: str, lines: list[dict[str, float | int]]) -> None:
        """Write metrics, one JSON object a line."""
        if self.out is None:
            return
        path = self.out / METRICS
        text = "".join(strict_json(metrics) + "\n" for metrics in lines)
        try:
            if mode == "a" and _torn(path, self._size):
                warnings.warn(
                    f"{path} was changed in mid-run: it is written anew",
                    RuntimeWarning,
                    stacklevel=2,
                )
                mode = "w"
                text = "".join(strict_json(metrics) + "\n" for metrics in self.history)
            with path.open(mode) as file:
                file.write(text)
            self._size = len(text) + (self._size if mode == "a" else 0)
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from error

    def _draw(self, metrics: dict[str, float | int]) -> None:
        """One line of metrics for TensorBoard."""
        assert self.board is not None
        for name, number in metrics.items():
            self.board.add_scalar(name, number, int(metrics["update"]))

    def close(self) -> None:
        """Flush what TensorBoard has, and let others write the folder."""
        if self.board is not None:
            self.board.close()
        if self.lock is not None:
            self.lock.release()

    # ---- one update ----------------

    def rows(self) -> Tensor:
        """This update's batch: an endless stream of shuffled epochs, epoch e shuffled by (seed, e)."""
        N = len(self.data)
        first = self.update * self.settings.batch
        place = torch.arange(first, first + self.settings.batch)
        index = torch.empty_like(place)
        for epoch in range(int(place[0]) // N, int(place[-1]) // N + 1):
            generator = torch.Generator().manual_seed(mix(self.settings.seed, -1 - epoch))
            shuffle = torch.randperm(N, generator=generator)
            inside = place // N == epoch
            index[inside] = shuffle[place[inside] % N]
        return self.data[index.to(self.data.device)]

    def step(self) -> dict[str, float | int] | None:
        """One update; the metrics, where they are due.

        Nothing that a checkpoint holds moves before the gradient is known, but what `_before`
        keeps: until then the update may be given up.
        """
        settings = self.settings
        rows = self.rows()
        assert self.cd.generator is not None
        self.cd.generator.manual_seed(mix(settings.seed, self.update))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(self.update)
        self.optimizer.zero_grad()
        self._before = self._movable(copied=True)
        due = (
            self.update + 1
        ) % settings.evaluate_every == 0 or self.update + 1 == settings.updates
        with self.stopper.cuttable("update"):
            loss = self.cd(rows)
            samples = self.cd.samples
            assert samples is not None
            value = float(loss.detach())
            beta = None
            if due and math.isfinite(value):
                beta = beta_of_reads(self.model.ising().detach(), samples)
            loss.backward()
        if not math.isfinite(value):
            self.update += 1
            raise self.diverged(f"the loss is {value}")
        self.energies = [*self.energies[1 - WINDOW :], samples.energy.detach().clone()]
        self.update += 1
        self.optimizer.step()
        self._before = None
        self._check_weights()
        if beta is None:
            return None
        self.pending = {"update": self.update, "loss": value}
        self.pending |= {"beta": beta.value, "beta_stderr": beta.stderr}
        return None if self.stopper.number is not None else self.evaluate()

    def _check_weights(self) -> None:
        """Before they reach a checkpoint, or a sampler that cannot tell 1 from 0 beside them."""
        largest = strength(self.model.ising().detach())
        if not math.isfinite(largest):
            raise self.diverged("the weights are no longer finite")
        if largest > self.judge.strongest:
            raise self.diverged(f"fields have grown to {largest:.1e}")

    def evaluate(self) -> dict[str, float | int]:
        """The metrics of the last update; they are recorded, and the state is judged."""
        assert self.pending is not None
        with self.stopper.cuttable("evaluation"), self._doubts():
            likelihood = self.likelihood()
            self._judge(likelihood)
            metrics = {"update": self.pending["update"], "loss": self.pending["loss"], **likelihood}
            metrics |= {key: self.pending[key] for key in ("beta", "beta_stderr")}
            metrics |= {"ess": self.ess(), "seconds": time.perf_counter() - self.began}
        spent = getattr(self.cd.sampler, "spent", None)  # a quantum processor's
        metrics |= {} if spent is None else {"qpu_seconds": spent}
        self.pending = None
        self._keep_folder()
        self.history.append(metrics)
        self.record("a", [metrics])
        if self.board is not None:
            self._draw(metrics)
        self._doubt_chains(metrics["ess"])
        return metrics

    # ---- what can be said about the state ----------------

    def _judge(self, likelihood: dict[str, float | int] | None = None) -> None:
        """`Diverged` where the state is one that nobody wants back; `likelihood`: what is known already."""
        if self.judged == self.update:
            return
        samples = self.cd.samples
        nats = self.judge.bound(None if samples is None else samples.spins)
        if likelihood and self.validation is self.data and "log_likelihood" in likelihood:
            nats = max(nats, -likelihood["log_likelihood"])
        limit = self.judge.limit(self.update == self.settings.updates)
        if not nats <= limit:  # nor where it is not a number
            raise self.diverged(
                f"training diverged: the data cost {nats:.4g} nats a row, beyond {limit:.4g}"
            )
        self.judged = self.update

    def diverged(self, what: str) -> Diverged:
        """The error to raise."""
        stands = "" if self.out is None else f"; the last checkpoint, if any, stands in {self.out}"
        rate = f"lower the learning rate (lr={self.settings.lr:g})"
        return Diverged(f"{what} at update {self.update}: {rate}{stands}")

    def likelihood(self) -> dict[str, float | int]:
        """Exact log-likelihood of the validation rows where that is quick, else their pseudo-likelihood."""
        problem = self.model.ising()
        rows = self.validation
        listed = num_enumerated(problem)
        n = self.model.graph.num_spins
        hidden_listed = self.model.tractable or self.model.num_hidden <= 8
        if listed <= 20 and hidden_listed and (n << listed) <= 1 << 27:
            return {"log_likelihood": log_likelihood(self.model, rows, "exact").value}
        if not self.model.tractable:
            return {}
        return {"pseudo_log_likelihood": pseudo_log_likelihood(self.model, rows[:256])}

    def ess(self) -> float:
        """Independent reads an update: all of them for fresh starts, R / tau for chains."""
        if self.settings.start != "persistent":
            return float(len(self.energies[-1]))
        if len(self.energies) < 4 or self.settings.chains < 2:
            return float(len(self.energies[-1]))
        return chain_ess(torch.stack(self.energies))

    def _doubt_chains(self, ess: float) -> None:
        """Say once that the chains hardly move."""
        chains = self.settings.chains
        if self.settings.start == "persistent" and ess * STICKY <= chains:
            self._doubt(
                f"chains hardly move: {ess:.3g} of {chains} reads an update are independent "
                "(update "
                f"{self.update}); more sweeps, a lower learning rate or ParallelTempering may help"
            )

    def _doubt(self, text: str) -> None:
        """A warning, each kind of it once in a run."""
        kind = re.sub(r"[-+]?[\d.]+(e[-+]?\d+)?", "#", text)
        if kind not in self.said:
            self.said.add(kind)
            warnings.warn(text, ReliabilityWarning, stacklevel=2)

    def _doubts(self) -> Any:
        """Collect what estimators say of their own results."""
        return _Doubts(self)

    # ---- the state ----------------

    def _movable(self, *, copied: bool) -> dict[str, Any]:
        """What an update moves before its last step: chains and all that belongs to sampling."""
        cd = self.cd
        sampler: Any = cd.sampler
        keeps = hasattr(sampler, "state_dict")
        # what a processor charged stays charged, and its long ledger is not copied each update
        if copied and hasattr(sampler, "spent"):
            keeps = False
        parts = {
            "chains": cd.chains,
            "offsets": cd.offsets,
            "carry": cd.carry,
            "sampler": sampler.state_dict() if keeps else None,
        }
        parts |= {f"model.{name}": buffer for name, buffer in self._buffers.items()}
        return _copy(parts) if copied else parts

    def state(self) -> dict[str, Any]:
        """Everything the run's future depends on; in the middle of an update, as it was before."""
        now = self._movable(copied=False)
        before = self._before or {}
        if before.get("sampler") is None:
            before = {key: value for key, value in before.items() if key != "sampler"}
        now |= before
        model = dict(self.model.state_dict())
        model |= {name: now.pop(f"model.{name}") for name in self._buffers}
        return {
            "model": model,
            "optimizer": self.optimizer.state_dict(),
            **now,
            "update": self.update,
            "energies": torch.stack(self.energies) if self.energies else None,
            "history": self.history,
            "pending": self.pending,
            "seconds": time.perf_counter() - self.began,
            "settings": dataclasses.asdict(self.settings),
            "former": self.former,
            "config": self.config,
            "architecture": architecture(self.model),
            "identity": {"sampler": _spoken(self.cd.sampler), "data": digest(self.data)},
        }

    def save(self) -> None:
        """Write a checkpoint of a state that was judged good; `Diverged`, and the last one stands, otherwise."""
        if self.out is None or self.saved == self.update:
            return
        self._judge()
        self._keep_folder()
        checkpoint.save(self.out, self.state(), step=self.update)
        self.saved = self.update
        if self.lock is not None and not self.lock.intact():  # deleted while it was written
            self._keep_folder()
            checkpoint.save(self.out, self.state(), step=self.update)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint; ValueError where it is another run's."""
        assert self.out is not None
        if fault := fault_of(state):
            raise CheckpointError(
                f"cannot resume {self.out}: its checkpoint is not one of fit, {fault}"
            )
        if self.keeps_config:
            self.config = state["config"]
        self._check_same(state)
        weights = _copy(dict(self.model.state_dict()))
        try:
            self.model.load_state_dict(state["model"])
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"cannot resume {self.out}: {reason}") from None
        try:
            self.take_up(state)
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            self.model.load_state_dict(weights)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            path = self.out / checkpoint.LATEST
            raise CheckpointError(f"{path} holds no state of this run: {reason}") from None

    def take_up(self, state: dict[str, Any]) -> None:
        """Everything but the weights."""
        _check_optimizer(state["optimizer"], self.optimizer)
        for name in ("chains", "offsets"):
            if state[name].shape != getattr(self.cd, name).shape:
                raise ValueError(f"{name} of shape {list(state[name].shape)}")
        self.optimizer.load_state_dict(state["optimizer"])
        self.cd.chains.copy_(state["chains"])
        self.cd.offsets = state["offsets"].to(self.cd.offsets, copy=True)
        self.cd.carry = state["carry"]
        if state["sampler"] is not None:
            self.cd.sampler.load_state_dict(state["sampler"])  # pyright: ignore
        self.update = state["update"]
        self.history = state["history"]
        self.pending = state.get("pending")
        self.energies = [] if state["energies"] is None else list(state["energies"])
        self.began -= state["seconds"]
        self.saved = self.update
        former = Settings(**state["settings"])
        self.former = [*state.get("former", [])]
        if self.settings.rates(self.update) != former.rates(self.update):
            self.former.append(state["settings"] | {"until": self.update})
        elif self.settings.updates > former.updates and former.updates % former.evaluate_every:
            # a line that stands there only because the shorter run ended
            self.history = [m for m in self.history if m["update"] != former.updates]
            if self.pending is not None and self.pending["update"] == former.updates:
                self.pending = None

    def _check_same(self, state: dict[str, Any]) -> None:
        """A ValueError that names the first difference between the checkpoint's run and this one."""
        former = Settings(**state["settings"])
        parts = {
            "settings": (dataclasses.asdict(self.settings), dataclasses.asdict(former)),
            "config": (self.config, state["config"]),
            "identity": (
                {"sampler": _spoken(self.cd.sampler), "data": digest(self.data)},
                state["identity"],
            ),
        }
        for part, (ours, theirs) in parts.items():
            for name in sorted(ours.keys() | theirs.keys()):
                if theirs.get(name) == ours.get(name):
                    continue
                remedy = "use the same value, or another output folder"
                if part == "settings":
                    remedy = self.settings.remedy(name, former, state["update"])
                if remedy:
                    raise ValueError(
                        f"cannot resume {self.out}: it was made with "
                        f"{name}={theirs.get(name)!r}, not "
                        f"{ours.get(name)!r}; {remedy}"
                    )


class _Doubts:
    """Estimators' doubts inside a run: each kind is said once; other warnings pass as they are."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._catch = warnings.catch_warnings(record=True)

    def __enter__(self) -> None:
        self._caught = self._catch.__enter__()
        warnings.simplefilter("always", ReliabilityWarning)

    def __exit__(self, *error: Any) -> None:
        self._catch.__exit__(*error)
        for warning in self._caught or []:
            if issubclass(warning.category, ReliabilityWarning):
                self._run._doubt(str(warning.message))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )


def _copy(value: Any) -> Any:
    """Nested containers with their tensors cloned."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value) if type(value) in (list, tuple) else value
    return value


def _torn(path: Path, size: int) -> bool:
    """Whether a plain file is no longer there, or not as it was left."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size != size


def _check_optimizer(state: Any, optimizer: torch.optim.Optimizer) -> None:
    """A ValueError for a state whose tensors do not belong to these parameters."""
    groups = optimizer.state_dict()["param_groups"]
    theirs = state["param_groups"]
    if len(theirs) != len(groups):
        raise ValueError(f"{len(theirs)} groups of parameters")
    for ours, other in zip(groups, theirs, strict=True):
        if ours.keys() != other.keys() or ours["params"] != other["params"]:
            raise ValueError("an optimiser's state for other parameters")
        for key, value in ours.items():
            if type(value) is not type(other[key]):
                raise ValueError(f"{key}={other[key]!r} of the optimiser")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parts in state["state"].items():
        shape = parameters[index].shape
        for name, t in parts.items():
            if isinstance(t, Tensor) and (t.shape not in (shape, ()) or not t.isfinite().all()):
                raise ValueError(f"{name} of the optimiser of shape {list(t.shape)}")


def _spoken(sampler: Sampler) -> str:
    """The sampler and its settings in words; memory addresses, which no two runs share, are left out."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(sampler))


def digest(data: Tensor) -> str:
    """What tells one set of rows from another."""
    whole = data.detach().to("cpu", torch.int8).contiguous().numpy().tobytes()
    return hashlib.sha256(whole).hexdigest()[:16]
