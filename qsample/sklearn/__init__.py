"""Estimators in scikit-learn's own form."""

from __future__ import annotations

from qsample.support.faces import Face

_FACE = Face(__name__, __file__)
__all__ = _FACE.names
__getattr__ = _FACE.load


def __dir__() -> list[str]:
    return [*globals(), *__all__]
