"""`twoviews.__all__` and the names that `import twoviews` offers are the same."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import twoviews

TREE = ast.parse(Path(twoviews.__file__).read_text(encoding="utf-8"))


def mentioned(tree: ast.Module) -> set[str]:
    """Every public identifier that `__init__.py` writes down, as a name, an imported name or a string."""
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words |= {node.value} if node.value.isidentifier() else set()
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.alias):
            words.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            words.add(node.name)
    return {word for word in words if not word.startswith("_")}


def helpers(tree: ast.Module) -> set[str]:
    """What `__init__.py` itself imports from elsewhere, which is no offer."""
    outside = (
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and not (getattr(node, "module", None) or "").startswith("twoviews")
        and not getattr(node, "level", 0)
        for alias in node.names
    )
    return set(outside)


def declared(tree: ast.Module) -> set[str]:
    """What a type checker sees: imports from twoviews under `if TYPE_CHECKING:` or at the top."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("twoviews"))
        for alias in node.names
    }


def offered() -> set[str]:
    found = {word for word in mentioned(TREE) - helpers(TREE) if hasattr(twoviews, word)}
    return {word for word in found if word in twoviews.__all__ or not isinstance(getattr(twoviews, word), ModuleType)}


PUBLIC = sorted(name for name in twoviews.__all__ if not name.startswith("_"))


def test_all_is_what_is_offered() -> None:
    assert sorted(offered()) == PUBLIC
    assert len(set(twoviews.__all__)) == len(twoviews.__all__)


def test_dir_lists_all() -> None:
    assert set(twoviews.__all__) <= set(dir(twoviews))


def test_type_checkers_see_the_same() -> None:
    assert {name for name in declared(TREE) if not name.startswith("_")} == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_resolves_and_is_documented(name: str) -> None:
    thing = getattr(twoviews, name)
    if callable(thing):
        assert thing.__doc__, f"twoviews.{name} has no docstring"


def test_the_promised_names_are_there() -> None:
    assert {"pretrain", "evaluate", "embed", "load_encoder"} <= set(twoviews.__all__)


def test_star_import_gives_all() -> None:
    space: dict[str, object] = {}
    exec("from twoviews import *", space)
    assert set(twoviews.__all__) == space.keys() - {"__builtins__"}


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"twoviews.*pretrian"):
        twoviews.pretrian  # noqa: B018


def test_names_come_lazily() -> None:
    code = "import sys, twoviews; dir(twoviews); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_reading_of_names() -> None:
    tree = ast.parse(
        "from importlib import import_module\n"
        "if TYPE_CHECKING:\n    from twoviews.run import Run\n"
        "_HOMES = {'Run': 'twoviews.run', 'lost': 'twoviews.run'}\n"
        "def loose(): ...\n"
    )
    assert mentioned(tree) >= {"Run", "lost", "loose", "import_module"}
    assert helpers(tree) == {"import_module"}
    assert declared(tree) == {"Run"}
