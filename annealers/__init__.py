"""Samplers and composites, loaded at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsample.annealers.corrected import Corrected as Corrected
    from qsample.annealers.dwave import DWave as DWave
    from qsample.annealers.exact import Exact as Exact
    from qsample.annealers.gibbs import Gibbs as Gibbs
    from qsample.annealers.gibbs import SimulatedAnnealing as SimulatedAnnealing
    from qsample.annealers.importance import AnnealedImportance as AnnealedImportance
    from qsample.annealers.ocean import AsDimod as AsDimod
    from qsample.annealers.ocean import DimodAnnealer as DimodAnnealer
    from qsample.annealers.ocean import Neal as Neal
    from qsample.annealers.population import PopulationAnnealing as PopulationAnnealing
    from qsample.annealers.tempered import TemperedGibbs as TemperedGibbs
    from qsample.annealers.tempering import ParallelTempering as ParallelTempering

_HOME = {
    "AnnealedImportance": "importance",
    "AsDimod": "ocean",
    "Corrected": "corrected",
    "DWave": "dwave",
    "DimodAnnealer": "ocean",
    "Exact": "exact",
    "Gibbs": "gibbs",
    "Neal": "ocean",
    "ParallelTempering": "tempering",
    "PopulationAnnealing": "population",
    "SimulatedAnnealing": "gibbs",
    "TemperedGibbs": "tempered",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
