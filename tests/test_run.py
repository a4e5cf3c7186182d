"""The run directory: refusals, atomic writes, provenance."""

import csv
import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from twoviews.errors import RefusedError, ResourceError, UsageError
from twoviews.run import (
    Run,
    check_output,
    make_output,
    provenance,
    read_json,
    read_lines,
    write_json,
    write_rows,
    write_text,
)


def test_everything_lies_inside_the_directory(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    paths = {
        "config": "config.toml",
        "info_file": "run.json",
        "metrics": "metrics.jsonl",
        "tensorboard": "tensorboard",
        "manifest": "manifest.csv",
        "rejected": "rejected.csv",
        "views": "views.png",
        "checkpoints": "checkpoints",
        "encoder": "encoder",
        "classifier": "classifier",
        "evaluation": "evaluation",
        "results": "evaluation/results.json",
        "embeddings": "embeddings",
        "report": "report.html",
    }
    assert {name: getattr(run, name) for name in paths} == {name: tmp_path / path for name, path in paths.items()}


class TestOutput:
    def test_new_and_empty_folders_are_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b"
        check_output(path, overwrite=False)
        assert not path.parent.exists()  # nothing is made before there is something to write
        for _ in range(2):
            assert make_output(path, overwrite=False).path == path
            assert list(path.iterdir()) == []

    @pytest.mark.parametrize("name", ["run.json", "photo.jpg", ".hidden"])
    def test_what_is_not_empty_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("{}")
        for act in (check_output, make_output):
            with pytest.raises(RefusedError, match=r"is not empty: choose another --out, give --overwrite, or: two"):
                act(tmp_path, overwrite=False)
        assert (tmp_path / name).read_text() == "{}"

    @pytest.mark.parametrize("name", ["run.json", "config.toml"])
    def test_overwrite_empties_a_run(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("{}")
        (tmp_path / "encoder").mkdir()
        check_output(tmp_path, overwrite=True)
        assert len(list(tmp_path.iterdir())) == 2
        make_output(tmp_path, overwrite=True)
        assert list(tmp_path.iterdir()) == []

    def test_overwrite_deletes_nothing_but_runs(self, tmp_path: Path) -> None:
        (tmp_path / "photo.jpg").write_text("mine")
        for act in (check_output, make_output):
            with pytest.raises(RefusedError, match="holds no run: twoviews will not delete it"):
                act(tmp_path, overwrite=True)
        assert (tmp_path / "photo.jpg").read_text() == "mine"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_is_refused(self, tmp_path: Path, overwrite: bool) -> None:
        path = tmp_path / "file"
        path.write_text("mine")
        with pytest.raises(RefusedError, match="is a file: choose another --out"):
            make_output(path, overwrite=overwrite)
        assert path.read_text() == "mine"

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ResourceError, match=r"cannot write to .*; choose another --out"):
            check_output(tmp_path / "file" / "deep" / "run", overwrite=False)

    def test_below_a_folder_that_may_not_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Permissions do not bind root, as whom tests may run.
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        with pytest.raises(ResourceError, match=rf"cannot write to .*{re.escape(str(tmp_path))} is no folder that may"):
            check_output(tmp_path / "deep" / "run", overwrite=False)

    def test_a_read_only_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path, *_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(ResourceError, match=r"cannot write to .*: Read-only file system; choose another --out"):
            make_output(tmp_path / "run", overwrite=False)


class TestFacts:
    def test_update_merges(self, tmp_path: Path) -> None:
        run = Run(tmp_path)
        run.update(a=1, b={"c": 2})
        run.update(a=3, path=tmp_path)
        assert run.info() == {"a": 3, "b": {"c": 2}, "path": str(tmp_path)}

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"is not a run directory: it has no run\.json"):
            Run(tmp_path).info()

    def test_a_run_that_is_not_finished(self, tmp_path: Path) -> None:
        run = Run(tmp_path)
        run.update(status="interrupted", step=7, steps=12)
        with pytest.raises(UsageError, match=r"is not finished \(step 7 of 12\): continue it with: twoviews resume"):
            run.require_finished()
        run.update(status="finished")
        assert run.require_finished()["step"] == 7

    @pytest.mark.parametrize("text", ["", "{", '{"a": 1'])
    def test_broken_facts_name_the_file(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(UsageError, match=r"run\.json cannot be read: "):
            Run(tmp_path).info()

    @pytest.mark.parametrize("text", [None, "[data"])
    def test_broken_settings_name_the_file(self, tmp_path: Path, text: str | None) -> None:
        if text is not None:
            (tmp_path / "config.toml").write_text(text)
        with pytest.raises(UsageError, match=r"config\.toml cannot be read: "):
            Run(tmp_path).settings()

    def test_provenance(self) -> None:
        facts = provenance(["twoviews", "demo"])
        assert facts["command"] == ["twoviews", "demo"]
        for name in ("twoviews", "created", "python", "torch", "numpy", "platform"):
            assert facts[name], name
        json.dumps(facts)


class TestWriting:
    def test_text_replaces_text(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "file"
        write_text(path, "old")
        write_text(path, "new\r\n\udcff")
        assert path.read_bytes() == b"new\r\n\xff"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failure_keeps_the_old_and_leaves_no_litter(
        self, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        write_text(path, "old")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
        for write in (lambda: write_text(path, "new"), lambda: write_rows(path, [{"a": 1}], columns=["a"])):
            with pytest.raises(ResourceError, match=r"cannot write .*file: No space left on device"):
                write()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(ResourceError, match=r"cannot write .*report: "):
            write_text(tmp_path / "file" / "report", "text")

    def test_json_takes_paths_and_refuses_nan(self, tmp_path: Path) -> None:
        write_json(tmp_path / "a.json", {"path": tmp_path})
        assert read_json(tmp_path / "a.json") == {"path": str(tmp_path)}
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "b.json", {"loss": float("nan")})
        assert not (tmp_path / "b.json").exists()

    def test_rows_keep_any_name(self, tmp_path: Path) -> None:
        names = ["plain", "a,b", 'say "x"', "two\nlines", "re\rturn", " lead", "\udcff", "e\u0301 é 🙂 \u202eabc"]
        write_rows(tmp_path / "rows.csv", [{"id": n, "label": ""} for n in names], columns=["id", "label"])
        with (tmp_path / "rows.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == names


class TestLines:
    def test_a_last_line_that_was_cut_off_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}')
        assert list(read_lines(path)) == [{"step": 0}, {"step": 1}]

    def test_no_file_has_no_lines(self, tmp_path: Path) -> None:
        assert list(read_lines(tmp_path / "metrics.jsonl")) == []
