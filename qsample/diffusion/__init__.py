"""Annealed steps inside diffusion models, loaded at first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qsample.optional import install_line

if TYPE_CHECKING:
    from qsample.diffusion.counted import Counted as Counted
    from qsample.diffusion.expansion import first_order as first_order
    from qsample.diffusion.expansion import second_order as second_order
    from qsample.diffusion.forward import Uniform as Uniform
    from qsample.diffusion.forward import UniformBits as UniformBits
    from qsample.diffusion.forward import cosine_times as cosine_times
    from qsample.diffusion.forward import log_times as log_times
    from qsample.diffusion.local import DiscreteLangevin as DiscreteLangevin
    from qsample.diffusion.local import GibbsWithGradients as GibbsWithGradients
    from qsample.diffusion.local import SiteGibbs as SiteGibbs
    from qsample.diffusion.metropolis import BlockMetropolis as BlockMetropolis
    from qsample.diffusion.metropolis import Cycle as Cycle
    from qsample.diffusion.metropolis import TemperedTransitions as TemperedTransitions
    from qsample.diffusion.noise import AnnealedGuidance as AnnealedGuidance
    from qsample.diffusion.pipeline import IsingDiffusionPipeline as IsingDiffusionPipeline
    from qsample.diffusion.scheduler import IsingScheduler as IsingScheduler
    from qsample.diffusion.surrogate import linear as linear
    from qsample.diffusion.surrogate import regression as regression
    from qsample.diffusion.surrogate import secant as secant
    from qsample.diffusion.surrogate import taylor as taylor

_HOME = {
    "AnnealedGuidance": "noise",
    "BlockMetropolis": "metropolis",
    "Counted": "counted",
    "Cycle": "metropolis",
    "DiscreteLangevin": "local",
    "GibbsWithGradients": "local",
    "IsingDiffusionPipeline": "pipeline",
    "IsingScheduler": "scheduler",
    "SiteGibbs": "local",
    "TemperedTransitions": "metropolis",
    "Uniform": "forward",
    "UniformBits": "forward",
    "cosine_times": "forward",
    "first_order": "expansion",
    "linear": "surrogate",
    "log_times": "forward",
    "regression": "surrogate",
    "secant": "surrogate",
    "second_order": "expansion",
    "taylor": "surrogate",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "diffusers":
            raise
        raise ImportError(f"{name}: {error}; {install_line('diffusion')} brings it") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
