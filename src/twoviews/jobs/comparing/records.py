"""The journal of a comparison: what was fitted stands on disk at once, so that a killed one goes on where it stopped.

While a comparison runs, each process appends to a file of its own under `evaluation/journal`; at the end one file in
the order of the rows, `evaluation/records.jsonl`, takes their place. Both hold the predictions on test.
"""

import json
import os
import shutil
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from twoviews import distributed
from twoviews.evaluation.compare import Budget, unpack
from twoviews.run import Run, read_lines, write_text


@dataclass(frozen=True)
class Record:
    """One fit of a finished comparison: what it answered on test, (N,) int64, and its row."""

    arm: str
    budget: Budget
    seed: int
    predicted: np.ndarray
    val_score: float | None
    row: dict[str, Any]


def read_records(run: Run) -> list[Record]:
    """The fits of the run's last finished comparison, in the order of its rows; none for a run without."""
    if not run.records.is_file():
        return []
    return [
        Record(
            line["row"]["arm"],
            line["row"]["labels_per_class"],
            line["row"]["seed"],
            unpack(line["predicted"]),
            line["val_score"],
            line["row"],
        )
        for line in read_lines(run.records)
    ]


class Journal:
    """Results by their key, on disk as soon as they are there; those of the same comparison, if killed, to begin with.

    Opened by all processes together. `comparison`: what identifies it; a journal of another one is removed.
    """

    def __init__(self, run: Run, comparison: str) -> None:
        self.folder, self.known = run.evaluation / "journal", {}  # type: Any, dict[str, Any]
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = list(read_lines(path))
            if lines and lines[0].get("comparison") == comparison:
                self.known.update((line["key"], line["value"]) for line in lines[1:])
        distributed.barrier()  # all have read before one writes
        if distributed.is_main():
            if self.folder.exists() and not self.known:
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
        distributed.barrier()
        names = {path.stem for path in self.folder.glob("*.jsonl")}
        distributed.barrier()
        number = len(names) + distributed.rank()  # a torn last line stays where it is: a new file a start
        self._path = self.folder / f"{number:04d}.jsonl"
        self._append({"comparison": comparison})

    def __len__(self) -> int:
        return len(self.known)

    def get(self, *key: Hashable) -> Any:
        """What was found for this key; None where nothing was."""
        return self.known.get(_text(key))

    def put(self, *key: Hashable, value: Any) -> Any:
        """Take `value` in, which JSON must be able to carry, and give it as it will be read."""
        text = json.loads(json.dumps(value))
        self.known[_text(key)] = text
        self._append({"key": _text(key), "value": text})
        return text

    def curves(self, kind: str) -> list[dict[str, Any]]:
        """Points of the curves of all results of one kind, over the processes."""
        mine = {key: value["curve"] for key, value in self.known.items() if json.loads(key)[0] == kind}
        found = {key: curve for part in distributed.exchange(mine) for key, curve in part.items()}
        return [point for key in sorted(found) for point in found[key]]

    def made(self, *key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of this key, made where there is none."""
        found = self.get(*key)
        return found if found is not None else self.put(*key, value=make())

    def close(self, run: Run, records: list[dict[str, Any]]) -> None:
        """Write the finished comparison's records, and remove the journal. By one process, with the results written."""
        write_text(run.records, "".join(json.dumps(record) + "\n" for record in records))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _text(key: tuple[Hashable, ...]) -> str:
    return json.dumps(key)
