"""Training: `fit` turns a model, data and a sampler into a trained model, and survives being stopped."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from qsample import checkpoint
from qsample.diagnostics import chain_ess
from qsample.enumerate import num_enumerated
from qsample.gradient import ContrastiveDivergence, Start
from qsample.likelihood import log_likelihood, pseudo_log_likelihood
from qsample.sampler import Sampler, mix
from qsample.temperature import effective_beta

if TYPE_CHECKING:
    from qsample.models import EnergyModel

WINDOW = 64  # updates over which the chains' autocorrelation is measured


@dataclass(frozen=True)
class Settings:
    """How to train; everything a run needs to be repeated, with the model, the data and the sampler."""

    updates: int = 5000
    """gradient steps"""
    batch: int = 200
    """rows of data a step"""
    lr: float = 0.02
    """learning rate at the start"""
    decay: Literal["linear", "none"] = "linear"
    """the learning rate falls to zero at the last update, or stays"""
    optimizer: Literal["adam", "sgd"] = "adam"
    """torch optimiser"""
    weight_decay: float = 0.0
    """L2 penalty of the optimiser"""
    start: Start = "persistent"
    """where the negative chains begin: data (CD), persistent (PCD), fresh (annealed)"""
    chains: int = 512
    """negative samples a step"""
    centred: bool = False
    """the centred gradient, offsets by moving average"""
    seed: int = 0
    """of everything random"""
    evaluate_every: int = 250
    """updates between lines of metrics"""
    checkpoint_every: int = 1000
    """updates between checkpoints"""

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "chains", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1; got {getattr(self, name)}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"expected a learning rate > 0; got {self.lr}")


def fit(
    model: EnergyModel,
    data: Tensor,
    sampler: Sampler,
    settings: Settings | None = None,
    *,
    validation: Tensor | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place on `data` [N, n_visible] by contrastive divergence; returns the metrics.

    With `out`, metrics go to `metrics.jsonl` (and TensorBoard, if installed) and checkpoints to the same folder.
    Each update's randomness is a function of (seed, update), so a run that resumes from a checkpoint equals one that
    was never stopped, bit for bit. Ctrl-C finishes the update, writes a checkpoint and then interrupts.

    Args:
        model: its parameters are the starting point.
        data: rows in the model's coding.
        sampler: draws the negative phase.
        settings: see `Settings`.
        validation: rows for the likelihood in the metrics; the data by default.
        out: folder of the run.
        resume: go on from the checkpoint in `out`, if there is one.
        progress: show a bar.
        config: JSON values kept in the checkpoint, such as what made the model.

    Raises:
        ValueError: bad data; a checkpoint of other settings or another model; a folder that already holds a run
            when `resume` is not set.
        FloatingPointError: the loss is no longer finite; the last checkpoint stands.
    """
    settings = settings or Settings()
    data = model.check(data)
    if data.dim() != 2 or len(data) == 0:
        raise ValueError(f"expected data of shape [N, {model.num_visible}] with N >= 1; got {list(data.shape)}")
    run = _Run(model, data, sampler, settings, validation, None if out is None else Path(out), dict(config or {}))
    run.open(resume)
    pace = 0.1 if sys.stderr.isatty() else 10.0  # a log file wants a line now and then
    bar = tqdm(total=settings.updates, initial=run.update, disable=not progress, unit="update", mininterval=pace)
    with bar, _deferred_interrupt() as interrupted:
        while run.update < settings.updates:
            metrics = run.step()
            bar.update()
            if metrics:
                shown = ("loss", "log_likelihood", "pseudo_log_likelihood", "beta", "ess")
                bar.set_postfix({k: f"{metrics[k]:.3f}" for k in shown if k in metrics}, refresh=False)
            stop = interrupted.is_set()
            if stop or run.update % settings.checkpoint_every == 0 or run.update == settings.updates:
                run.save()
            if stop:
                raise KeyboardInterrupt(f"stopped after update {run.update}")
    run.close()
    return run.history


class _Run:
    """The moving parts of one training run."""

    def __init__(
        self,
        model: EnergyModel,
        data: Tensor,
        sampler: Sampler,
        settings: Settings,
        validation: Tensor | None,
        out: Path | None,
        config: dict[str, Any],
    ) -> None:
        self.model, self.data, self.settings, self.out, self.config = model, data, settings, out, config
        self.validation = data if validation is None else model.check(validation)
        self.cd = ContrastiveDivergence(
            model,
            sampler,
            start=settings.start,
            num=settings.chains,
            centred=settings.centred,
            generator=torch.Generator(),
        )
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[settings.optimizer]
        self.optimizer = make(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.update, self.history = 0, []
        self.energies: list[Tensor] = []
        self.began = time.perf_counter()
        self.board = None

    def open(self, resume: bool) -> None:
        """Prepare the folder, or take up the checkpoint in it."""
        if self.out is None:
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write to {self.out}: {error.strerror}; choose another output folder") from None
        if (self.out / checkpoint.LATEST).exists():
            if not resume:
                raise ValueError(f"{self.out} already holds a run: resume it, or choose another output folder")
            self.restore(checkpoint.load(self.out))
        lines = [json.dumps(metrics) + "\n" for metrics in self.history]
        (self.out / "metrics.jsonl").write_text("".join(lines))
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.out / "tensorboard", purge_step=self.update)
        except ImportError:
            pass

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def rows(self) -> Tensor:
        """This update's batch: an endless stream of shuffled epochs, epoch e shuffled by (seed, e)."""
        N, first = len(self.data), self.update * self.settings.batch
        place = torch.arange(first, first + self.settings.batch)
        index = torch.empty_like(place)
        for epoch in range(int(place[0]) // N, int(place[-1]) // N + 1):
            shuffle = torch.randperm(N, generator=torch.Generator().manual_seed(mix(self.settings.seed, -1 - epoch)))
            here = place // N == epoch
            index[here] = shuffle[place[here] % N]
        return self.data[index.to(self.data.device)]

    def step(self) -> dict[str, float] | None:
        """One update; the metrics, where they are due."""
        settings, rows = self.settings, self.rows()
        assert self.cd.generator is not None
        self.cd.generator.manual_seed(mix(settings.seed, self.update))
        left = 1 - self.update / settings.updates if settings.decay == "linear" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * left
        self.optimizer.zero_grad()
        loss = self.cd(rows)
        if not math.isfinite(value := float(loss.detach())):
            raise FloatingPointError(
                f"the loss is {value} at update {self.update}: lower the learning rate (lr={settings.lr:g})"
                + (f"; the last checkpoint stands in {self.out}" if self.out else "")
            )
        assert self.cd.samples is not None
        self.energies = [*self.energies[1 - WINDOW :], self.cd.samples.energy.detach().clone()]
        self.update += 1
        due = self.update % settings.evaluate_every == 0 or self.update == settings.updates
        beta = effective_beta(self.model.ising().detach(), self.cd.samples) if due else None
        loss.backward()
        self.optimizer.step()
        if beta is None:
            return None
        metrics = {"update": self.update, "loss": value, **self.likelihood(), "beta": beta.value}
        metrics |= {"beta_stderr": beta.stderr, "ess": self.ess(), "seconds": time.perf_counter() - self.began}
        self.history.append(metrics)
        if self.out is not None:
            with (self.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(metrics) + "\n")
        if self.board is not None:
            for name, number in metrics.items():
                self.board.add_scalar(name, number, self.update)
        return metrics

    def likelihood(self) -> dict[str, float]:
        """Exact log-likelihood of the validation rows where that is quick, else their pseudo-likelihood."""
        problem, rows = self.model.ising(), self.validation
        listed, n = num_enumerated(problem), self.model.graph.num_spins
        if listed <= 20 and (self.model.tractable or self.model.num_hidden <= 8) and (n << listed) <= 1 << 27:
            return {"log_likelihood": log_likelihood(self.model, rows, "exact").value}
        return {"pseudo_log_likelihood": pseudo_log_likelihood(self.model, rows[:256])} if self.model.tractable else {}

    def ess(self) -> float:
        """Independent reads an update: all of them for fresh starts, R / tau for chains."""
        if self.settings.start != "persistent" or len(self.energies) < 4 or self.settings.chains < 2:
            return float(len(self.energies[-1]))
        return chain_ess(torch.stack(self.energies))

    def state(self) -> dict[str, Any]:
        """Everything the run's future depends on."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "chains": self.cd.chains,
            "offsets": self.cd.offsets,
            "carry": self.cd.carry,
            "sampler": self.cd.sampler.state_dict() if hasattr(self.cd.sampler, "state_dict") else None,  # pyright: ignore
            "update": self.update,
            "energies": torch.stack(self.energies) if self.energies else None,
            "history": self.history,
            "seconds": time.perf_counter() - self.began,
            "settings": dataclasses.asdict(self.settings),
            "config": self.config,
        }

    def save(self) -> None:
        if self.out is not None:
            checkpoint.save(self.out, self.state(), step=self.update)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint; ValueError where it is another run's."""
        for part, ours in (("settings", dataclasses.asdict(self.settings)), ("config", self.config)):
            for name in sorted(ours.keys() | state[part].keys()):
                if state[part].get(name) != ours.get(name):
                    raise ValueError(
                        f"cannot resume {self.out}: it was made with {name}={state[part].get(name)!r}, not "
                        f"{ours.get(name)!r}; use the same value, or another output folder"
                    )
        try:
            self.model.load_state_dict(state["model"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"cannot resume {self.out}: {str(error).splitlines()[-1].strip()}") from None
        self.optimizer.load_state_dict(state["optimizer"])
        self.cd.chains.copy_(state["chains"])
        self.cd.offsets.copy_(state["offsets"])
        self.cd.carry = state["carry"]
        if state["sampler"] is not None:
            self.cd.sampler.load_state_dict(state["sampler"])  # pyright: ignore
        self.update, self.history = state["update"], state["history"]
        self.energies = [] if state["energies"] is None else list(state["energies"])
        self.began -= state["seconds"]


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that an update is never torn; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
