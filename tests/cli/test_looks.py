"""How often the test set was opened is counted, whatever kills the process that counts."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from twoviews.errors import ResourceError
from twoviews.jobs.comparing.looks import finish_opening, in_words, last_finished, looks, record_opening
from twoviews.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def lines(run: Run) -> list[str]:
    return (run.evaluation / "openings.jsonl").read_text().splitlines()


def opened(run: Run, comparison: str, *, test: str = "t") -> dict[str, str]:
    return record_opening(run, test_fingerprint=test, comparison=comparison, command=["twoviews", "evaluate", "a b"])


def test_each_finished_comparison_is_a_look(run: Run) -> None:
    assert looks(run, "t") == {"count": 0, "test": "t", "openings": []}
    assert in_words(looks(run, "t")) == "the test set was not opened for this run"
    first = opened(run, "one")
    assert datetime.fromisoformat(first["time"]).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert first["command"] == "twoviews evaluate 'a b'"
    assert in_words(looks(run, "t")) == "the test set was opened once for this run"
    finish_opening(run, comparison="one")
    opened(run, "two")
    finish_opening(run, comparison="two")
    opened(run, "one")  # the same again, but its numbers were known
    found = looks(run, "t")
    assert (found["count"], [row["comparison"] for row in found["openings"]]) == (3, ["one", "two", "one"])
    assert set(found["openings"][0]) == {"time", "command", "comparison"}
    assert in_words(found) == (
        "this is look 3 at this test set: choices made after an earlier look make the numbers optimistic"
    )


def test_a_killed_comparison_that_goes_on_is_one_look(run: Run) -> None:
    first = opened(run, "one")
    opened(run, "other")
    assert opened(run, "one") == first
    assert looks(run, "t")["count"] == 2
    finish_opening(run, comparison="one")
    finish_opening(run, comparison="one")
    finish_opening(run, comparison="never opened")
    assert len(lines(run)) == 3
    assert opened(run, "other")["comparison"] == "other"
    assert len(lines(run)) == 3


def test_what_the_results_are_of(run: Run) -> None:
    opened(run, "one")
    finish_opening(run, comparison="one")
    assert last_finished(run) is None, "there is nothing to replace"
    run.results.write_text('{"comparison": "one"}')
    again = opened(run, "one", test="u")
    assert last_finished(run) == again
    # A comparison with a teacher opens test too, and writes other results.
    opened(run, "two")
    finish_opening(run, comparison="two")
    assert last_finished(run) == again
    for text in ("{}", "{", "7"):
        run.results.write_text(text)
        assert last_finished(run) is None


def test_test_sets_are_counted_apart(run: Run) -> None:
    opened(run, "one")
    opened(run, "one", test="u")
    assert (looks(run, "t")["count"], looks(run, "u")["count"]) == (1, 1)
    finish_opening(run, comparison="one")
    assert len(lines(run)) == 4
    opened(run, "one", test="u")
    assert (looks(run, "t")["count"], looks(run, "u")["count"]) == (1, 2)


def test_a_line_that_was_cut_off_costs_no_other(run: Run) -> None:
    opened(run, "one")
    finish_opening(run, comparison="one")
    path = run.evaluation / "openings.jsonl"
    before = path.read_bytes()
    opened(run, "two")
    whole = path.read_bytes()
    for length in range(len(before), len(whole) + 1):
        path.write_bytes(whole[:length])
        done = length >= len(whole) - 1  # all but the end of the line is a record
        assert looks(run, "t")["count"] == 1 + done
        opened(run, "two")
        opened(run, "three")
        assert [row["comparison"] for row in looks(run, "t")["openings"]] == ["one", "two", "three"]


def test_what_is_no_record_is_passed_over(run: Run) -> None:
    opened(run, "one")
    with (run.evaluation / "openings.jsonl").open("ab") as file:
        file.write(b'\x00\xff\x00\n[1]\n7\n{"test": "t"}\n\n')
    opened(run, "two")
    assert looks(run, "t")["count"] == 2


def test_processes_side_by_side_lose_nothing(run: Run) -> None:
    program = (
        "import sys; from twoviews.jobs.comparing.looks import record_opening; from twoviews.run import Run\n"
        "for i in range(40): record_opening(Run(sys.argv[1]), test_fingerprint='t', comparison=f'{sys.argv[2]}-{i}', "
        "command='c' * 3000)"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, str(run.path), name]) for name in "ab"]
    assert [process.wait() for process in started] == [0, 0]
    found = [row["comparison"] for row in looks(run, "t")["openings"]]
    assert sorted(found) == sorted(f"{name}-{i}" for name in "ab" for i in range(40))
    # An empty line is what a process adds that meets the other one's line while it is being written.
    assert all(json.loads(line) for line in lines(run) if line)


def test_where_nothing_can_be_written_it_is_said(run: Run) -> None:
    run.path.parent.mkdir(exist_ok=True)
    run.path.write_text("a file")
    with pytest.raises(ResourceError, match=r"cannot write .*openings\.jsonl"):
        opened(run, "one")


def test_the_command_is_this_one_by_default(run: Run) -> None:
    assert record_opening(run, test_fingerprint="t", comparison="c")["command"]
