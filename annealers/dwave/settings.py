"""The settings of a `DWave`: what each means stands beside it, and all are checked once.

Times have their unit in their text: the anneal is in microseconds, as the processor's own
parameters are; budgets and waiting times are in seconds.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, Literal

from qsample.annealers.dwave.cloud.secret import Secret, sealed
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.checks import check_choice, whole_settings

# What the sampler itself decides, and what would lose reads; the rest of a solver's parameters pass
# through.
OURS = ("num_reads", "auto_scale", "initial_state", "annealing_time", "max_answers", "label")
Repair = Literal["majority", "gibbs"]


@dataclass(frozen=True)
class Settings:
    """What a `DWave` is asked to do."""

    # ---- what is asked of the solver ----------------

    solver: str | Mapping[str, Any] | None = None
    """name of the solver, or features such as `{"topology__type": "zephyr"}`; None is the
    configured or the largest one"""
    num_reads: int | None = None
    """largest number of reads of one job; more are asked for by several jobs, each in a gauge of
    its own. None is the solver's own limit"""
    annealing_time: float | int | None = None
    """duration of one anneal in microseconds; None is the solver's default"""
    reverse: Sequence[tuple[float | int, float | int]] | None = None
    """anneal schedule `[(microseconds, s), ...]` from s = 1 for calls with `initial`, which make
    one job per distinct state; None anneals forward, and takes no `initial`"""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """further parameters of the solver, such as `{"readout_thermalization": 10.0}`"""

    # ---- where a problem lies on the chip ----------------

    chain_strength: float | int | None = None
    """strength of the couplings within chains, in the problem's units; None compensates the torque
    of each problem"""
    copies: int | None = None
    """number of copies of a problem on the chip; None is as many as fit"""
    cache: Path | str | None = None
    """folder where embeddings are kept; None searches in each process anew"""

    # ---- the law of the reads ----------------

    prefactor: float | int | None = None
    """fixed factor for h and J; None is 1 over the beta that was measured"""
    drift: float | int = 0.02
    """relative change of the chip's beta from call to call, by which the moving average forgets"""
    gauges: int = 1
    """number of spin-reversal transforms of each problem, one job per transform; 0 leaves the signs
    as they are"""
    repair: Repair = "majority"
    """mending of broken chains: "majority" takes the spin of most qubits, "gibbs" then draws the
    broken variables afresh by one heat-bath step"""
    reweight: bool = False
    """whether reads are weighted to beta 1 by the measured beta; `info["ess"]` tells what the
    weights leave of them"""

    # ---- cost ----------------

    budget: float | int | None = None
    """seconds of access time of the whole run, as the ledger adds them up; None is no limit. Before
    a job is sent its estimate is asked for, so the last jobs may cost a little more"""
    budget_per_call: float | int | None = None
    """seconds of access time of one call, its pilot and its repeated submissions in them; None is
    no limit"""
    ledger: Path | str | None = None
    """append-only file of every submission, which samplers and processes may share, and its budget
    with it; None keeps the ledger in memory and in checkpoints"""

    # ---- failures ----------------

    timeout: float | int = 300.0
    """seconds from submission to the last answer"""
    retries: int = 8
    """number of repetitions of a failed request"""
    backoff: float | int = 0.5
    """seconds before the first repetition; each further pause doubles, with jitter"""
    fallback: Sampler | None = None
    """sampler that serves, with a warning, where the device cannot; None raises the error"""

    # ---- recording ----------------

    record: Path | str | None = None
    """file where every answer is added; None records nothing"""
    replay: Path | str | None = None
    """recording that answers in place of the device; None asks the device"""

    # ---- access ----------------

    label: str = "qsample"
    """text that the service shows beside each job"""
    token: Secret | str | None = field(default=None, repr=False)
    """token of the API, which is never shown or saved; None is DWAVE_API_TOKEN or D-Wave's
    configuration file"""
    client: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """further configuration of dwave-cloud-client, such as `{"endpoint": ...}` or
    `{"profile": ...}`"""

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        """The settings without secrets; also of an object whose constructor has not ended.

        Whoever shows the frames of an error may ask for that.
        """
        assigned = [setting.name for setting in fields(self) if setting.name in self.__dict__]
        hidden = [setting.name for setting in fields(self) if not setting.repr]
        shown = [f"{name}={getattr(self, name)!r}" for name in assigned if name not in hidden]
        return f"{type(self).__qualname__}({', '.join(shown)})"


# ---- what `help` shows ----------------


def document(cls: type[Settings]) -> None:
    """Add the settings and their texts to a class's docstring, under `Args:`.

    So `help(DWave)` shows what stands beside each field above, and nothing is written twice.
    """
    if cls.__doc__ is None:  # python -OO
        return
    lines = ["Args:"]
    for name, text in _texts().items():
        line = f"{name}: {' '.join(text.split())}."
        lines += textwrap.wrap(line, 96, initial_indent=" " * 4, subsequent_indent=" " * 8)
    before, raises, after = inspect.cleandoc(cls.__doc__).partition("Raises:")
    cls.__doc__ = before + "\n".join(lines) + "\n\n" + raises + after


@functools.cache
def _texts() -> dict[str, str]:
    """The text beside each field of `Settings`, which Python itself drops."""
    try:
        source = textwrap.dedent(inspect.getsource(Settings))
    except OSError:  # no source is there
        return {}
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(following, ast.Expr):
            continue
        if isinstance(statement.target, ast.Name) and isinstance(following.value, ast.Constant):
            texts[statement.target.id] = str(following.value.value)
    return texts


# ---- secrets ----------------


def _seal_first(init: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    """The constructor, which puts token and passwords into a `Secret` before anything can fail.

    A frame that fails is shown with its arguments, so they are sealed in place.

    Args:
        init: the constructor.
        names: its parameters' names in order, without `self`.
    """

    @functools.wraps(init)
    def __init__(self: Settings, *args: Any, **kwargs: Any) -> None:
        args = _seal(names, list(args), kwargs)
        init(self, *args, **kwargs)

    return __init__


def _seal(names: Sequence[str], args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments, in place, with what is secret in a `Secret`.

    A token among the client's configuration becomes the token.

    Args:
        names: the parameters' names in order.
        args: arguments given by position.
        kwargs: arguments given by name.
    """

    def given(name: str) -> Any:
        place = names.index(name)
        return args[place] if place < len(args) else kwargs.get(name)

    def put(name: str, value: Any) -> None:
        place = names.index(name)
        if place < len(args):
            args[place] = value
        else:
            kwargs[name] = value

    client = given("client")
    token = given("token")
    if isinstance(client, Mapping):
        client = dict(client)
        inner = client.pop("token", None)
        token = inner if token is None else token
        put("client", sealed(client))
    elif client is not None:
        put("client", Secret(client))
    put("token", token if isinstance(token, Secret) else Secret(token))
    return tuple(args)


Settings.__init__ = _seal_first(Settings.__init__, list(inspect.signature(Settings).parameters))


# ---- checks ----------------


def _check(settings: Settings) -> None:
    """ValueError or TypeError for a setting that cannot be."""
    _check_numbers(settings)
    _check_files(settings)
    if not isinstance(settings.client, Mapping):
        raise TypeError('expected client as a mapping, such as client={"profile": "mine"}')
    check_choice("repair", settings.repair, Repair)
    for name in settings.parameters:
        if name in OURS:
            raise ValueError(
                f"{name} is not among parameters=: DWave sets it, or has an argument of its own "
                "for it"
            )
    reverse = settings.reverse
    if reverse is not None and (len(reverse) < 2 or tuple(reverse[0]) != (0, 1)):
        raise ValueError(f"expected reverse as [(0, 1), (us, s), ..., (us, 1)]; got {reverse!r}")
    if settings.fallback is not None:
        check_is_sampler(settings.fallback)


def _check_numbers(settings: Settings) -> None:
    for name in ("budget", "budget_per_call"):
        value = getattr(settings, name)
        if value is None:
            continue
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not float(value) > 0:
            raise ValueError(
                f"expected {name} > 0 seconds of QPU access time, or None for no limit; got "
                f"{value!r}"
            )
    for name in ("num_reads", "copies", "annealing_time", "chain_strength", "prefactor"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"expected {name} > 0, or None; got {value!r}")
    whole_settings(settings, gauges=0, retries=0)
    if not settings.timeout > 0:
        raise ValueError(f"expected timeout > 0 seconds; got {settings.timeout!r}")
    if not settings.drift >= 0:
        raise ValueError(f"expected drift >= 0; got {settings.drift!r}")


def _check_files(settings: Settings) -> None:
    if settings.record is not None and settings.replay is not None:
        raise ValueError("record= and replay= are both given: a replay is a recording already")
    if settings.ledger is not None and settings.record is not None:
        ledger = Path(settings.ledger).expanduser().resolve()
        if ledger == Path(settings.record).expanduser().resolve():
            raise ValueError(f"ledger= and record= are both {settings.ledger}: name two files")
