"""The run directory: what lies where, atomic writes, provenance. The contract between commands."""

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from twoviews.errors import RefusedError, ResourceError, UsageError


class Run:
    """A run directory. Every other room asks it for paths and facts.

    >>> Run("runs/demo").results            # doctest: +SKIP
    PosixPath('runs/demo/evaluation/results.json')
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def info_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.csv"

    @property
    def rejected(self) -> Path:
        return self.path / "rejected.csv"

    @property
    def labelled(self) -> Path:
        return self.path / "labelled.csv"

    @property
    def views(self) -> Path:
        return self.path / "views.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def head(self) -> Path:
        return self.path / "head"

    @property
    def classifier(self) -> Path:
        return self.path / "classifier"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def results(self) -> Path:
        return self.evaluation / "results.json"

    @property
    def records(self) -> Path:
        return self.evaluation / "records.jsonl"

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def info(self) -> dict[str, Any]:
        """What `run.json` says. Raises `UsageError` where there is no run."""
        if not self.info_file.is_file():
            raise UsageError(
                f"{self.path} is not a run directory: it has no run.json; start one with twoviews pretrain"
            )
        loaded: dict[str, Any] = read_json(self.info_file)
        return loaded

    def update(self, **facts: Any) -> None:
        """Merge facts into `run.json`, atomically."""
        known = read_json(self.info_file) if self.info_file.is_file() else {}
        write_json(self.info_file, {**known, **facts})

    def settings(self) -> dict[str, Any]:
        """The tables of `config.toml`."""
        try:
            return tomllib.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UsageError(f"{self.config} cannot be read: {error}") from None

    def require_finished(self) -> dict[str, Any]:
        """`info()`, or `UsageError` when pretraining has not ended."""
        info = self.info()
        if info.get("status") != "finished":
            done, steps = info.get("step", 0), info.get("steps", "?")
            raise UsageError(
                f"{self.path} is not finished (step {done} of {steps}): continue it with: twoviews resume {self.path}"
            )
        return info


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot or must not be written, before any work is done and anything is changed.

    Raises `RefusedError` for a file, and for a folder that is not empty unless `overwrite` is on and it holds a run;
    `ResourceError` where nothing can be written.
    """
    if path.exists() and not path.is_dir():
        raise RefusedError(f"{path} is a file: choose another --out")
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(f"cannot write to {path}: {there} is no folder that may be written; choose another --out")
    if path.is_dir() and any(path.iterdir()):
        if not overwrite:
            raise RefusedError(
                f"{path} is not empty: choose another --out, give --overwrite, or: twoviews resume {path}"
            )
        run = Run(path)
        if not (run.info_file.exists() or run.config.exists()):
            raise RefusedError(f"{path} is not empty and holds no run: twoviews will not delete it")


def make_output(path: Path, *, overwrite: bool) -> Run:
    """An empty run directory; what was there is deleted if `check_output` allows it."""
    check_output(path, overwrite=overwrite)
    try:
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
    except OSError as error:
        raise ResourceError(f"cannot write to {path}: {error.strerror}; choose another --out") from None
    return Run(path)


def provenance(command: Iterable[str] | None = None) -> dict[str, Any]:
    """Versions, platform, git state and command of this process."""
    return {
        "twoviews": _version("twoviews"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command) if command is not None else _command(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "torchvision", "timm", "numpy", "scikit-learn")},
        "platform": platform.platform(),
        "git": _git(),
    }


def write_text(path: Path, text: str) -> None:
    """Write a file that is either the old one or the new one, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ResourceError(f"cannot write {path}: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON. Raises `UsageError` naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], *, columns: list[str]) -> None:
    """`write_text` of a CSV file that keeps any name."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; a last line that was cut off is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _command() -> list[str]:
    program = Path(sys.argv[0]).name
    return [program if program != "__main__.py" else "twoviews", *sys.argv[1:]]


def _git() -> dict[str, Any] | None:
    """Commit of the working directory's repository, where there is one."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
