"""The moving parts of a training run: one update, its metrics, and the state that a checkpoint holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsample import checkpoint
from qsample.enumerate import num_enumerated
from qsample.gradient import ContrastiveDivergence
from qsample.likelihood import log_likelihood, pseudo_log_likelihood
from qsample.mixing import chain_ess
from qsample.sampler import Sampler, mix
from qsample.settings import Settings
from qsample.temperature import effective_beta

if TYPE_CHECKING:
    from qsample.models import EnergyModel

WINDOW = 64  # updates over which the chains' autocorrelation is measured


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
        config: dict[str, Any],
    ) -> None:
        self.model, self.data, self.settings, self.out, self.config = model, data, settings, out, config
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
        self.record("w", self.history)
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(self.out / "tensorboard", purge_step=self.update)
        except ImportError:
            pass

    def record(self, mode: str, lines: list[dict[str, float | int]]) -> None:
        """Write metrics, one JSON object a line."""
        if self.out is None:
            return
        try:
            with (self.out / "metrics.jsonl").open(mode) as file:
                file.write("".join(strict_json(metrics) + "\n" for metrics in lines))
        except OSError as error:
            raise ValueError(f"cannot write {self.out / 'metrics.jsonl'}: {error.strerror}") from error

    def close(self) -> None:
        """Flush what TensorBoard has."""
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

    def step(self) -> dict[str, float | int] | None:
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
            raise self.diverged(f"the loss is {value}")
        assert self.cd.samples is not None
        self.energies = [*self.energies[1 - WINDOW :], self.cd.samples.energy.detach().clone()]
        self.update += 1
        due = self.update % settings.evaluate_every == 0 or self.update == settings.updates
        beta = effective_beta(self.model.ising().detach(), self.cd.samples) if due else None
        loss.backward()
        self.optimizer.step()
        problem = self.model.ising().detach()
        for t in (problem.h, problem.J, problem.offset):  # before they reach a checkpoint
            if not t.isfinite().all():
                raise self.diverged("the weights are no longer finite")
        if beta is None:
            return None
        metrics = {"update": self.update, "loss": value, **self.likelihood(), "beta": beta.value}
        metrics |= {"beta_stderr": beta.stderr, "ess": self.ess(), "seconds": time.perf_counter() - self.began}
        spent = getattr(self.cd.sampler, "spent", None)  # a quantum processor's
        metrics |= {} if spent is None else {"qpu_seconds": spent}
        self.history.append(metrics)
        self.record("a", [metrics])
        if self.board is not None:
            for name, number in metrics.items():
                self.board.add_scalar(name, number, self.update)
        return metrics

    def diverged(self, what: str) -> FloatingPointError:
        """The error to raise."""
        stands = "" if self.out is None else f"; the last checkpoint, if any, stands in {self.out}"
        rate = f"lower the learning rate (lr={self.settings.lr:g})"
        return FloatingPointError(f"{what} at update {self.update}: {rate}{stands}")

    def likelihood(self) -> dict[str, float | int]:
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
            "identity": {"sampler": _spoken(self.cd.sampler), "data": digest(self.data)},
        }

    def save(self) -> None:
        """Write a checkpoint."""
        if self.out is not None:
            checkpoint.save(self.out, self.state(), step=self.update)

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint; ValueError where it is another run's."""
        missing = sorted(self.state().keys() - state.keys())
        if missing:
            raise ValueError(f"cannot resume {self.out}: its checkpoint is not one of fit, it lacks {missing[0]!r}")
        now = self.state()
        for part in ("settings", "config", "identity"):
            ours = now[part]
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
        self.cd.offsets = state["offsets"].to(self.cd.offsets, copy=True)
        self.cd.carry = state["carry"]
        if state["sampler"] is not None:
            self.cd.sampler.load_state_dict(state["sampler"])  # pyright: ignore
        self.update, self.history = state["update"], state["history"]
        self.energies = [] if state["energies"] is None else list(state["energies"])
        self.began -= state["seconds"]


def _spoken(sampler: Sampler) -> str:
    """The sampler and its settings in words; memory addresses, which no two runs share, are left out."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(sampler))


def digest(data: Tensor) -> str:
    """What tells one set of rows from another."""
    return hashlib.sha256(data.detach().to("cpu", torch.int8).contiguous().numpy().tobytes()).hexdigest()[:16]
