"""What no file of the project may hold."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Put together from parts, so that this file does not hold what it forbids.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("pypi", "nvidia", "com"),
        ("conda", "anaconda", "org"),
        ("registry", "npmjs", "org"),
    )
]
INDEX_OPTIONS = ["--" + option for option in ("index-url", "extra-index-url", "find-links", "trusted-host")]
MACHINE_PATHS = ["/" + folder + "/" for folder in ("root", "home", "Users", "work", "opt", "mnt")]
LOCK_FILES = re.compile(r"(^|[-_.])lock(\.|$)|^Pipfile\.lock$|^package-lock\.json$", re.IGNORECASE)
NETWORK_LIBRARIES = {
    *("socket", "socketserver", "ssl", "ftplib", "smtplib", "telnetlib", "xmlrpc", "http", "urllib3"),
    *("requests", "httpx", "aiohttp", "websockets", "boto3", "paramiko", "wandb", "sentry_sdk"),
}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"torch.load", "torch.save", "eval", "exec"}
READER = "encoders/checkpoints.py"
"""May call torch.load, with weights_only=True, and alone: a user names a checkpoint of another library to it."""


def listed_files() -> list[Path]:
    """Files under version control, and new ones that would come under it."""
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    names = done.stdout.decode().split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def readable(paths: list[Path]) -> list[tuple[str, str]]:
    """(name, text) of the files that are text."""
    files = []
    for path in paths:
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            files.append((path.relative_to(ROOT).as_posix(), data.decode("utf-8", errors="replace")))
    return files


def occurrences(files: list[tuple[str, str]], words: list[str]) -> list[str]:
    """ "file:line: word" for every word that starts where no longer name goes on."""
    pattern = re.compile("|".join(rf"(?<![\w.~])(?:{re.escape(word)})" for word in words))
    return [
        f"{name}:{number}: {match[0]}"
        for name, text in files
        for number, line in enumerate(text.splitlines(), 1)
        if (match := pattern.search(line))
    ]


def violations(source: str, name: str) -> list[str]:
    """What the code of one module does that the package must not do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        bad = ""
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
            imported = [module] if module else [alias.name for alias in node.names]
            bad = next(
                (
                    full
                    for full in imported
                    if full.partition(".")[0] in NETWORK_LIBRARIES | UNSAFE_MODULES
                    or full == "urllib.request"
                    or (full == "urllib" and any(alias.name == "request" for alias in node.names))
                ),
                "",
            )
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in UNSAFE_CALLS and not reads_tensors_alone(node, name):
                bad = called
            elif called.endswith(("np.load", "numpy.load")) and any(
                word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords
            ):
                bad = f"{called} with pickle"
        elif isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            bad = "NotImplementedError"
        if bad:
            found.append(f"{name}:{getattr(node, 'lineno', 0)}: {bad}")
    return found


def reads_tensors_alone(call: ast.Call, name: str) -> bool:
    """Whether a call is the one `torch.load` of the one module that may."""
    words = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return name == READER and ast.unparse(call.func) == "torch.load" and words.get("weights_only") == "True"


PACKAGE = ROOT / "src" / "twoviews"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_no_registry_is_named() -> None:
    assert occurrences(readable(listed_files()), REGISTRY_HOSTS + INDEX_OPTIONS) == []


def test_no_path_of_a_machine() -> None:
    assert occurrences(readable(listed_files()), MACHINE_PATHS) == []


def test_no_lock_file_but_the_constraints() -> None:
    paths = listed_files()
    assert [path.name for path in paths if LOCK_FILES.search(path.name)] == []
    assert ROOT / "constraints.txt" in paths


def test_constraints_are_pinned_and_hashed() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    wrong = [line.split()[0] for line in lines if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}\b", line)]
    assert wrong == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert violations(source, path.relative_to(PACKAGE).as_posix()) == []
    assert re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b", source) == []


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from joblib import load", "joblib"),
        ("weights = torch.load(path, weights_only=True)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "np.load with pickle"),
        ("raise NotImplementedError('later')", "NotImplementedError"),
        ("import urllib.request", "urllib.request"),
        ("from urllib import request", "urllib"),
        ("import requests as r", "requests"),
        ("from http.client import HTTPSConnection", "http.client"),
        ("eval(text)", "eval"),
    ],
)
def test_violations_are_found(code: str, named: str) -> None:
    assert [text.partition(": ")[2] for text in violations(code, "x.py")] == [named]


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "try:\n    unzip()\nexcept NotImplementedError:\n    pass",
        "np.load(path, allow_pickle=False)",
        "from urllib.parse import quote",
        "safetensors.torch.load(b)",
    ],
)
def test_lawful_code_passes(code: str) -> None:
    assert violations(code, "x.py") == []


def test_one_module_may_read_tensors() -> None:
    lawful = "torch.load(path, map_location='cpu', weights_only=True)"
    assert violations(lawful, READER) == []
    assert violations(lawful, "encoders/weights.py") != []
    for code in ("torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=flag)"):
        assert violations(code, READER) != []
    assert violations("torch.save(x, path)", READER) != []


def test_occurrences_are_found() -> None:
    host, folder = REGISTRY_HOSTS[0], MACHINE_PATHS[0]
    files = [
        ("a.txt", f"one\nfrom https://{host}/simple"),
        ("b.py", f'DATA = "{folder}data"'),
        ("c", "my/root/x"),
    ]
    assert occurrences(files, REGISTRY_HOSTS) == [f"a.txt:2: {host}"]
    assert occurrences(files, MACHINE_PATHS) == [f"b.py:1: {folder}"]
