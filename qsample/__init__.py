"""qsample: one Ising problem between any energy model and any sampler, and the gradient that learns from the draws."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsample.diagnostics import diagnose as diagnose
    from qsample.gradient import ContrastiveDivergence as ContrastiveDivergence
    from qsample.gradient import Start as Start
    from qsample.gradient import cd_loss as cd_loss
    from qsample.graph import Graph as Graph
    from qsample.ising import Ising as Ising
    from qsample.likelihood import log_likelihood as log_likelihood
    from qsample.likelihood import log_partition as log_partition
    from qsample.likelihood import pseudo_log_likelihood as pseudo_log_likelihood
    from qsample.sampler import Sampler as Sampler
    from qsample.samples import Estimate as Estimate
    from qsample.samples import Exactness as Exactness
    from qsample.samples import ReliabilityWarning as ReliabilityWarning
    from qsample.samples import Samples as Samples
    from qsample.saved import SavedRun as SavedRun
    from qsample.saved import load_run as load_run
    from qsample.temperature import effective_beta as effective_beta
    from qsample.train import Settings as Settings
    from qsample.train import fit as fit

_HOME = {
    "ContrastiveDivergence": "gradient",
    "Estimate": "samples",
    "Exactness": "samples",
    "Graph": "graph",
    "Ising": "ising",
    "ReliabilityWarning": "samples",
    "Sampler": "sampler",
    "Samples": "samples",
    "SavedRun": "saved",
    "Settings": "train",
    "Start": "gradient",
    "cd_loss": "gradient",
    "diagnose": "diagnostics",
    "effective_beta": "temperature",
    "fit": "train",
    "load_run": "saved",
    "log_likelihood": "likelihood",
    "log_partition": "likelihood",
    "pseudo_log_likelihood": "likelihood",
}
_MODULES = ("annealers", "data", "diffusion", "metrics", "models", "testing")
__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
