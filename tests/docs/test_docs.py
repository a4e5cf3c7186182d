"""What the documents show works: commands parse, names exist, nothing public goes unmentioned."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import twoviews
from twoviews.cli.commands import COMMANDS
from twoviews.cli.parser import build_parser
from twoviews.config import Recipe, make_recipe, parse_assignment
from twoviews.encoders import build_encoder
from twoviews.jobs.decide import check_names
from twoviews.methods import METHODS, build_method, method_options
from twoviews.recipes import load_recipe, recipe_names, recipe_text
from twoviews.training.large_batch import accumulate_gradients

ROOT = Path(__file__).parents[2]
METHODS_PAGE = ROOT / "docs" / "methods.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
ANCHOR = re.compile(r"\[[^\]]*\]\(([\w./]*)#([^)\s]+)\)")
KEY = re.compile(rf"`({'|'.join(Recipe.model_fields)})\.(\w+)(?: = [^`]*|=[^`]*)?`")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for _, language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language in languages:
            yield body


def commands_in(script: str) -> Iterator[list[str]]:
    """The arguments of every `twoviews ...` in a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&&", "||", "|", "&", ">", ">>", "2>"):
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    del words[0]
                if words and Path(words[0]).name == "twoviews":
                    yield words[1:]
                elif words[1:3] == ["-m", "twoviews"]:
                    yield words[3:]
                words = []
            else:
                words.append(word)


def parses(arguments: list[str]) -> bool:
    try:
        build_parser().parse_args(arguments)
    except SystemExit as stop:  # --help ends with 0
        return not stop.code
    return True


def text_of_all() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def test_the_reader_of_scripts_finds_commands() -> None:
    script = (
        "$ A=1 .venv/bin/twoviews check x && \\\n  python -m twoviews views 'a b' --out s.png | cat  # twoviews no\n"
    )
    assert list(commands_in(script)) == [["check", "x"], ["views", "a b", "--out", "s.png"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_parse(page: Path) -> None:
    for script in blocks(page, "sh", "bash", "shell", "console"):
        for arguments in commands_in(script):
            assert parses(arguments), f"twoviews {shlex.join(arguments)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_parses_and_its_names_exist(page: Path) -> None:
    for code in blocks(page, "python", "py"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "twoviews":
                assert node.attr in twoviews.__all__, f"twoviews.{node.attr}"
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "twoviews":
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_anchors_are_headings(page: Path) -> None:
    for target, anchor in ANCHOR.findall(page.read_text(encoding="utf-8")):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_settings_are_taken(page: Path) -> None:
    """A recipe of the project with what a command sets is a configuration, and its names are known."""
    for script in blocks(page, "sh", "bash", "shell", "console"):
        for arguments in commands_in(script):
            options = vars(build_parser().parse_args(arguments)) if "--set" in arguments else {}
            if options:
                recipe = options["recipe"] if options.get("recipe") in recipe_names() else "default"
                check_names(make_recipe(load_recipe(recipe), *map(parse_assignment, options["settings"])))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_keys_exist(page: Path) -> None:
    known = {name: set(field.annotation.model_fields) for name, field in Recipe.model_fields.items()}  # type: ignore[union-attr]
    known["method"] |= {option for name in METHODS for option in method_options(name)}
    known["method"] |= {"OPTION"}
    for section, key in KEY.findall(page.read_text(encoding="utf-8")):
        assert key in known[section], f"{section}.{key}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row(name: str) -> None:
    """And the options that stand in it are its own, with the defaults that it has."""
    table = METHODS_PAGE.read_text(encoding="utf-8").partition("\n## All of them\n")[2].partition("\n## ")[0]
    (row,) = re.findall(rf"^\| `{name}` \|.*$", table, re.MULTILINE)
    options = row.split(" | ")[3]
    known = method_options(name)
    for option in re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", options)):
        assert option in known
    for option, default in re.findall(r"`(\w+)` \(([\d.,]+\d|\d)[;,)]", options):
        wanted = known[option]
        assert wanted is None or float(default.replace(",", "")) == wanted, option


@pytest.mark.parametrize("name", recipe_names())
def test_lengths_of_recipes(name: str) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
    train = make_recipe(load_recipe(name)).train
    assert f"batch {train.batch_size or 256:,} |" in row
    assert train.epochs is None or f"| {train.epochs} epochs, " in row


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_mentioned(name: str) -> None:
    assert re.search(rf"\btwoviews {name}\b", text_of_all())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_mentioned(name: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text_of_all())


@pytest.mark.parametrize("name", recipe_names())
def test_commands_of_recipes_parse(name: str) -> None:
    found = re.findall(r"^# command +(twoviews .*)$", recipe_text(name), re.MULTILINE)
    assert found
    for line in found:
        for arguments in commands_in(line):
            build_parser().parse_args(arguments)


def test_large_batches_in_a_loop_of_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "large_batches.md", "python")
    exec(compile(code, "large_batches.md", "exec"), {})
    assert 4 < float(capsys.readouterr().out.removeprefix("tensor(").removesuffix(")\n")) < 7.5


def test_the_method_on_the_page_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "apart", METHODS["simclr"])  # taken away again after the test
    (code,) = blocks(METHODS_PAGE, "python")
    exec(compile(code, "methods.md", "exec"), {"__name__": "methods_page"})
    torch.manual_seed(0)
    views = [torch.rand(16, 1, 8, 8) for _ in range(2)]
    encoder = build_encoder("convnet_tiny", image_size=8, channels=1)
    method = build_method("apart", encoder, options={"weight": 2.0})
    done = accumulate_gradients(
        method, lambda rows: [view[rows] for view in views], count=16, bn_group=8, micro_batch=8
    )
    assert -1 < done.step.loss.item() < 2
    assert all(parameter.grad is not None for parameter in method.parameters())
