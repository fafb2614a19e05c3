"""A loopback solver API: D-Wave's own client over HTTP to our engine, with costs and faults."""

from __future__ import annotations

from qsample.support.faces import Face

_FACE = Face(__name__, __file__)
__all__ = _FACE.names
__getattr__ = _FACE.load


def __dir__() -> list[str]:
    return [*globals(), *__all__]
