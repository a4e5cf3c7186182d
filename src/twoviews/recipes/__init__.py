"""Named recipes: one TOML file each, whose header says command, hardware, time, score and protocol."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from twoviews.config import read_recipe_file
from twoviews.errors import UsageError, unknown_name


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
    """The tables of a recipe: a name, or the path of a TOML file.

    Raises `UsageError` for an unknown name, a folder, and a file that is not TOML.
    """
    path = Path(name)
    if str(name) not in recipe_names() and path.is_dir():
        raise UsageError(f"recipe {str(name)!r} is a folder: give a TOML file, of a run {path / 'config.toml'}")
    if isinstance(name, Path) or name.endswith(".toml"):
        return read_recipe_file(path)
    if path.suffix or len(path.parts) > 1:
        raise UsageError(
            f"unknown recipe {name!r}: a recipe file ends in .toml, that of a run is RUN/config.toml; names: "
            f"{', '.join(recipe_names()[:5])}, ... (twoviews recipes)"
        )
    recipe_text(name)
    return read_recipe_file(Path(str(files(__name__) / f"{name}.toml")))
