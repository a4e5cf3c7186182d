"""Named recipes: one TOML file each, whose header says command, hardware, time, score and protocol."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from twoviews.config import read_recipe_file
from twoviews.errors import unknown_name


def recipe_names() -> list[str]:
    """All named recipes, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in files(__name__).iterdir() if p.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """A named recipe as TOML, header included. Raises `UsageError` with the nearest name."""
    if name not in recipe_names():
        raise unknown_name("recipe", name, recipe_names())
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")


def recipe_summary(name: str) -> str:
    """The first line of a recipe's header."""
    return recipe_text(name).splitlines()[0].lstrip("# ")


def load_recipe(name: str | Path) -> dict[str, Any]:
    """The tables of a recipe: a name, or the path of a TOML file."""
    if isinstance(name, Path) or name.endswith(".toml"):
        return read_recipe_file(Path(name))
    recipe_text(name)
    return read_recipe_file(Path(str(files(__name__) / f"{name}.toml")))
