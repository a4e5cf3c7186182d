"""Dependencies point down the table in ARCHITECTURE.md, imports inside functions included."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "twoviews"

# Between two rooms of one level, and why.
ALLOWED = {
    (
        "evaluation.finetune",
        "training.optim",
    ): "fine-tuning and pretraining share groups, optimisers and schedules",
}
# Rooms that may use less than what lies below them.
ONLY = {"report": {"report", "run", "errors"}}


def read_table(text: str) -> dict[str, int]:
    """Room -> level, 0 on top, from the fenced block under "Direction of dependencies"."""
    section = re.search(r"^## Direction of dependencies.*?```\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert section is not None, "ARCHITECTURE.md has no table of dependencies"
    levels: list[str] = []
    for line in section[1].splitlines():
        assert "->" in line, f"no arrow in {line!r}"
        levels += [rooms for rooms in line.split("->") if rooms.strip()]
    return {room.strip(): level for level, rooms in enumerate(levels) for room in rooms.split(",")}


TABLE = read_table((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def module_name(path: Path, package: Path = PACKAGE) -> str:
    """`views/ops.py` -> "views.ops", `data/__init__.py` -> "data", the root -> ""."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str, table: Iterable[str] = TABLE) -> str | None:
    """The entry of the table that names the module or a package around it; the longest one counts."""
    around = [room for room in table if module == room or module.startswith(room + ".")]
    return max(around, key=len, default=None)


def imports_of(source: str, module: str, *, is_package: bool, known: Iterable[str]) -> set[str]:
    """Modules of twoviews that a source text imports anywhere, as names without the leading "twoviews."."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = ["twoviews", *module.split(".")] if module else ["twoviews"]
                above = here[: len(here) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner.removeprefix("twoviews.") in known else base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return {
        name.removeprefix("twoviews").removeprefix(".")
        for name in found
        if name == "twoviews" or name.startswith("twoviews.")
    }


def complaint(module: str, target: str, table: dict[str, int] = TABLE) -> str | None:
    """Why `module` may not import `target`, or None."""
    if target == "":
        return f"{module} imports the package root: import from the module that defines the name"
    here, there = room_of(module, table), room_of(target, table)
    if here is None or there is None:
        return f"{module} -> {target}: {module if here is None else target} is in no room of the table"
    house = here.partition(".")[0]
    if house in ONLY and there.partition(".")[0] not in ONLY[house]:
        return f"{module} -> {target}: {house} may use only {', '.join(sorted(ONLY[house]))}"
    if table[there] > table[here] or (module, target) in ALLOWED:
        return None
    if table[there] == table[here] and house == there.partition(".")[0]:
        return None
    return f"{module} -> {target} points {'sideways' if table[there] == table[here] else 'up'}"


def edges() -> list[tuple[str, str]]:
    """Every import inside the package; its root and `__main__` stand above the table."""
    return [
        (module, target)
        for module, path in MODULES.items()
        if module not in ("", "__main__")
        for target in sorted(
            imports_of(path.read_text(encoding="utf-8"), module, is_package=path.stem == "__init__", known=MODULES)
        )
    ]


def test_every_module_has_a_room() -> None:
    homeless = [module for module in MODULES if module not in ("", "__main__") and room_of(module) is None]
    assert homeless == [], "not in the table of ARCHITECTURE.md"


def test_every_room_exists() -> None:
    assert [room for room in TABLE if not any(room_of(module, [room]) for module in MODULES)] == []


def test_every_folder_is_a_package() -> None:
    assert {module.rpartition(".")[0] for module in MODULES} <= set(MODULES)


def test_dependencies_point_down() -> None:
    assert [text for edge in edges() if (text := complaint(*edge))] == []


def test_no_exception_is_left_over() -> None:
    assert set(ALLOWED) <= set(edges())


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import twoviews.data.corpus", "data.corpus"),
        ("from twoviews.data import corpus", "data.corpus"),
        ("from twoviews.data import Corpus", "data"),
        ("from ..data.corpus import Corpus", "data.corpus"),
        ("from ..data import corpus", "data.corpus"),
        ("from . import knn", "evaluation.knn"),
        ("from twoviews import errors", "errors"),
        ("from twoviews import pretrain", ""),
        ("def f():\n    from twoviews.data.corpus import Corpus", "data.corpus"),
        ("if TYPE_CHECKING:\n    from twoviews.data.corpus import Corpus", "data.corpus"),
        ("importlib.import_module('twoviews.data.corpus')", "data.corpus"),
    ],
)
def test_imports_are_found(source: str, target: str) -> None:
    known = {"data", "data.corpus", "evaluation", "evaluation.knn", "errors"}
    assert imports_of(source, "evaluation.probe", is_package=False, known=known) == {target}


def test_a_package_imports_from_itself() -> None:
    known = {"data", "data.corpus"}
    assert imports_of("from . import corpus", "data", is_package=True, known=known) == {"data.corpus"}


@pytest.mark.parametrize(
    ("module", "target", "text"),
    [
        ("data.corpus", "methods.simclr", "data.corpus -> methods.simclr points sideways"),
        ("methods.simclr", "config", "methods.simclr -> config points up"),
        ("views.ops", "views.policies", "views.ops -> views.policies points up"),
        ("evaluation.probe", "training.optim", "evaluation.probe -> training.optim points sideways"),
        ("report.page", "data.corpus", "report.page -> data.corpus: report may use only errors, report, run"),
        ("cli.run", "", "cli.run imports the package root: import from the module that defines the name"),
        ("data.corpus", "attic", "data.corpus -> attic: attic is in no room of the table"),
        ("evaluation.finetune", "training.optim", None),
        ("views.policies", "views.ops", None),
        ("methods.simclr", "methods.heads", None),
        ("report.page", "run", None),
    ],
)
def test_complaints(module: str, target: str, text: str | None) -> None:
    table = read_table(
        "## Direction of dependencies\n```\ncli -> report, evaluation, training\n  -> config, run\n"
        "  -> methods, views.policies, data\n  -> losses, views.ops\n  -> errors\n```\n"
    )
    assert complaint(module, target, table) == text
