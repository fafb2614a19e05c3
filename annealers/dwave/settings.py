"""What a `DWave` is asked to do; checked once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from qsample.annealers.dwave.cloud.secret import Secret, sealed
from qsample.sampling.sampler import Sampler, check_is_sampler

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
        _check(self)

    def __repr__(self) -> str:
        """The settings, without secrets; also while they are checked and not all there, for who shows the frames."""
        told = [one.name for one in fields(self) if one.repr and one.name in self.__dict__]
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in told)})"


def _sealing(made: type[Settings]) -> None:
    """Its constructor puts the token and passwords into a `Secret` before anything of it can fail and be shown."""
    init, names = made.__init__, list(inspect.signature(made).parameters)

    @functools.wraps(init)
    def __init__(self: Settings, *args: Any, **kwargs: Any) -> None:
        args = _seal(names, list(args), kwargs)
        init(self, *args, **kwargs)

    made.__init__ = __init__


def _seal(names: Sequence[str], args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments, in place, with what is secret in a `Secret`; a token among the client's becomes the token."""

    def given(name: str) -> Any:
        place = names.index(name)
        return args[place] if place < len(args) else kwargs.get(name)

    def put(name: str, value: Any) -> None:
        place = names.index(name)
        if place < len(args):
            args[place] = value
        else:
            kwargs[name] = value

    client, token = given("client"), given("token")
    if isinstance(client, Mapping):
        client = dict(client)
        within = client.pop("token", None)
        token = within if token is None else token
        put("client", sealed(client))
    elif client is not None:
        put("client", Secret(client))
    put("token", token if isinstance(token, Secret) else Secret(token))
    return tuple(args)


_sealing(Settings)


def _check(settings: Settings) -> None:
    for name in ("budget", "budget_per_call"):
        value = getattr(settings, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0):
            raise ValueError(f"expected {name} > 0 seconds of QPU access time, or None for no limit; got {value!r}")
    if not isinstance(settings.client, Mapping):
        raise TypeError('expected client as a mapping, such as client={"profile": "mine"}')
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
    if settings.ledger is not None and settings.record is not None:
        if Path(settings.ledger).expanduser().resolve() == Path(settings.record).expanduser().resolve():
            raise ValueError(f"ledger= and record= are both {settings.ledger}: name two files")
    if settings.fallback is not None:
        check_is_sampler(settings.fallback)
