"""Faces: packages that show public names, wherever they lie, loaded at first use (PEP 562)."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Public = TypeVar("Public")


def public(face: str) -> Callable[[Public], Public]:
    """A class or function whose `__module__` is its face: files that name it survive any move.

    Pickles and the `model_index.json` of saved pipelines name a class by its module.

    Args:
        face: The package that shows the name, such as "qsample.models".
    """

    def named(thing: Public) -> Public:
        if isinstance(thing, type):
            _resolve(thing)
        thing.__module__ = face
        return thing

    return named


def _resolve(cls: type) -> None:
    """Makes annotations types: `typing.get_type_hints` would look for their names in the face."""
    home = vars(sys.modules[cls.__module__])
    types = {}
    for name, annotation in inspect.get_annotations(cls).items():
        types[name] = annotation
        if isinstance(annotation, str):
            with contextlib.suppress(NameError, AttributeError):  # imported for type checkers alone
                types[name] = eval(annotation, home)
    cls.__annotations__ = types


def names_of(stub: Path, listed: bool = True) -> dict[str, str]:
    """Names of a face and the modules that define them, as its stub lists them.

    A public name stands in the stub as `from home import Name as Name`. A name without `as` is no
    public one: it is there for the pickles that name it, such as the parts that a model is made of.

    Args:
        stub: The face's `__init__.pyi`.
        listed: The public names by default; else the others.
    """
    homes: dict[str, str] = {}
    for statement in ast.parse(stub.read_text()).body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname is not None) == listed:
                    homes[alias.name] = statement.module or ""
    return homes


class Face:
    """What a package's `__init__.py` needs to show the names of its stub, `__init__.pyi`.

    Args:
        package: The package's name.
        file: Its `__file__`; the stub lies beside it.
    """

    def __init__(self, package: str, file: str) -> None:
        self.package = package
        stub = Path(file).with_suffix(".pyi")
        self.names = sorted(names_of(stub))
        self.homes = names_of(stub) | names_of(stub, listed=False)

    def load(self, name: str) -> Any:
        """The module's `__getattr__`: imports what a name stands for, once.

        Raises:
            AttributeError: The face does not show that name.
        """
        if name not in self.homes:
            raise AttributeError(f"module {self.package!r} has no attribute {name!r}")
        home = self.homes[name]
        if home == self.package:  # a package or module inside it
            return importlib.import_module(f"{home}.{name}")
        value = getattr(importlib.import_module(home), name)
        setattr(importlib.import_module(self.package), name, value)
        return value
