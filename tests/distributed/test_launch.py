"""What `--devices N` gives its processes beside the command."""

import os
from pathlib import Path

import pytest

from twoviews.cli.launch import _environment
from twoviews.compute import available_cores


@pytest.mark.parametrize(
    ("given", "expected"), [(None, str(max(1, available_cores() // 2))), ("7", "7")], ids=["shared out", "as given"]
)
def test_threads_of_all_processes_are_no_more_than_cores(
    given: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    before = dict(os.environ)
    with _environment(tmp_path, 2):
        assert os.environ["OMP_NUM_THREADS"] == expected
    assert dict(os.environ) == before
