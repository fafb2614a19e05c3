"""Recipes: flags of `qsample train` that go together, as files that ship with the package."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from qsample.cli.train import Train
from qsample.learning.settings import Settings

FOLDER = Path(__file__).parents[1] / "recipes"
KINDS: dict[str, type] = {  # flags of `qsample train` that a recipe may set
    "data": str,
    "binarise": str,
    "model": str,
    "hidden": int,
    "test": int,
    "validation": int,
    "evaluate": str,
    "sampler": str,
    "sweeps": int,
    "set": list,
    "device": str,
    "threads": int,
}


class Recipe(NamedTuple):
    """What a recipe's file holds.

    Attributes:
        path: the file.
        about: one line of description.
        train: flags of the command.
        settings: flags of `Settings`.
    """

    path: Path
    about: str
    train: dict[str, Any]
    settings: Settings


@dataclass(frozen=True)
class Recipes:
    """List the recipes of `qsample train --recipe NAME`; or what one of them sets.

    Args:
        name: recipe that is shown: a name of the list, or a .toml file.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None

    def __call__(self) -> None:
        """Print the list, or the recipe's file."""
        if self.name is not None:
            recipe = read_recipe(self.name)
            print(f"# {recipe.path}\n{recipe.path.read_text(encoding='utf-8').rstrip()}")
            return
        for name in recipe_names():
            print(f"{name:22}{read_recipe(name).about}")


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_of(command: Train) -> Train:
    """A command whose flags are those of its recipe."""
    assert command.recipe is not None
    recipe = read_recipe(command.recipe)
    return replace(
        Train(out=command.out, recipe=command.recipe), settings=recipe.settings, **recipe.train
    )


def read_recipe(name: str) -> Recipe:
    """The recipe of that name, or in that file.

    Raises:
        ValueError: an unknown name, a file that cannot be read or is no TOML, a flag that is none,
            or a value of another kind or out of range; the message names the file.
    """
    path = FOLDER / f"{name}.toml"
    if Path(name).suffix == ".toml":
        path = Path(name).expanduser()
    elif name not in recipe_names():
        raise ValueError(
            f"unknown recipe {name!r}{_near(name, recipe_names())}; expected one of "
            f"{', '.join(recipe_names())}, or the path of a .toml file"
        )
    return checked(path, read_toml(path, "recipe"))


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a file; a ValueError, one line, for what cannot be read or is no TOML."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no {what}: {error}") from None


def checked(path: Path, content: Mapping[str, Any]) -> Recipe:
    """What a recipe's file holds, with the values checked."""
    check_names(path, content, ["about", "train", "settings"])
    train = content.get("train", {})
    settings = content.get("settings", {})
    for name, table in (("train", train), ("settings", settings)):
        if not isinstance(table, dict):
            raise ValueError(f"{path}: expected a table [{name}]; got {table!r}")
    check_names(path, train, list(KINDS), "train.")
    flags = {}
    for name, value in train.items():
        kind = KINDS[name]
        if type(value) is not kind or (kind is list and not all(type(v) is str for v in value)):
            raise ValueError(f"{path}: expected {name} as {_KINDS_SAID[kind]}; got {value!r}")
        flags[name] = tuple(value) if kind is list else value
    try:
        made = Settings.of(settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    return Recipe(path, str(content.get("about", "")), flags, made)


_KINDS_SAID = {str: "a string", int: "a whole number", list: "a list of strings"}


def check_names(path: Path, table: Mapping[str, Any], known: list[str], prefix: str = "") -> None:
    """ValueError for a name that is none, with the nearest one.

    Args:
        path: file that is complained of.
        table: its names.
        known: names that there are.
        prefix: what stands before a name in the complaint, such as `grid.`.
    """
    for name in table:
        if name not in known:
            raise ValueError(
                f"{path}: unknown {prefix}{name}{_near(name, known)}; expected {', '.join(known)}"
            )


def _near(name: str, known: list[str]) -> str:
    """A hint at the nearest name, where one is near."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f": did you mean {close[0]}?" if close else ""
