"""What a `DWave` is asked to do; checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from qsample.annealers.dwave.secret import Secret
from qsample.sampler import Sampler, check_is_sampler

# What the sampler itself decides, and what would lose reads; the rest of a solver's parameters pass through.
OURS = ("num_reads", "auto_scale", "initial_state", "annealing_time", "max_answers", "label")


@dataclass(frozen=True)
class Settings:
    """The settings of `DWave`, which says what they mean."""

    solver: str | Mapping[str, Any] | None = None
    num_reads: int | None = None
    annealing_time: float | int | None = None
    chain_strength: float | int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prefactor: float | int | None = None
    gauges: int = 1
    repair: Literal["majority", "gibbs"] = "majority"
    reweight: bool = False
    reverse: Sequence[tuple[float | int, float | int]] | None = None
    budget: float | int | None = None
    budget_per_call: float | int | None = None
    ledger: Path | str | None = None
    copies: int | None = None
    cache: Path | str | None = None
    drift: float | int = 0.02
    timeout: float | int = 300.0
    retries: int = 8
    backoff: float | int = 0.5
    fallback: Sampler | None = None
    record: Path | str | None = None
    replay: Path | str | None = None
    label: str = "qsample"
    token: Secret | str | None = field(default=None, repr=False)
    client: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        client = dict(self.client)
        token = client.pop("token", None) if self.token is None else self.token
        object.__setattr__(self, "client", client)
        object.__setattr__(self, "token", token if isinstance(token, Secret) else Secret(token))
        _check(self)


def _check(settings: Settings) -> None:
    for name in ("budget", "budget_per_call"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"expected {name} > 0 seconds of QPU access time, or None for no limit; got {value!r}")
    for name in ("num_reads", "copies", "annealing_time", "chain_strength", "prefactor"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"expected {name} > 0, or None; got {value!r}")
    if settings.gauges < 0 or settings.retries < 0 or not settings.timeout > 0 or not settings.drift >= 0:
        found = (
            f"gauges={settings.gauges}, retries={settings.retries}, timeout={settings.timeout}, drift={settings.drift}"
        )
        raise ValueError(f"expected gauges, retries and drift >= 0 and timeout > 0; got {found}")
    if settings.repair not in ("majority", "gibbs"):
        raise ValueError(f"unknown repair {settings.repair!r}; expected majority or gibbs")
    if taken := [name for name in settings.parameters if name in OURS]:
        raise ValueError(f"{taken[0]} is not among parameters=: DWave sets it, or has an argument of its own for it")
    if settings.reverse is not None and (len(settings.reverse) < 2 or tuple(settings.reverse[0]) != (0, 1)):
        raise ValueError(f"expected reverse as [(0, 1), (us, s), ..., (us, 1)]; got {settings.reverse!r}")
    if settings.record is not None and settings.replay is not None:
        raise ValueError("record= and replay= are both given: a replay is a recording already")
    if settings.fallback is not None:
        check_is_sampler(settings.fallback)
