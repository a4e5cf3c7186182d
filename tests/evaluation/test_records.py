import json

import numpy as np
import pytest

from twoviews.errors import DataError
from twoviews.evaluation.compare import pack, unpack
from twoviews.jobs.comparing.records import Journal, read_records
from twoviews.run import Run


def test_predictions_survive_packing():
    predicted = np.array([0, 3, 65_535, 7])
    assert (unpack(pack(predicted)) == predicted).all()
    with pytest.raises(DataError, match="cannot be read"):
        unpack("AAAA")


def test_a_killed_comparison_finds_what_it_had(tmp_path):
    run = Run(tmp_path)
    first = Journal(run, "abc")
    assert first.made("fit", "linear", 5, 0, make=lambda: {"curve": [1, 2]}) == {"curve": [1, 2]}
    with next(first.folder.glob("*")).open("a") as file:
        file.write('{"key": "torn')  # killed while writing
    again = Journal(run, "abc")
    assert len(again) == 1
    assert again.made("fit", "linear", 5, 0, make=lambda: pytest.fail("made twice")) == {"curve": [1, 2]}
    again.put("fit", "linear", 5, 1, value={"curve": [3]})
    third = Journal(run, "abc")
    assert (len(third), third.curves("fit")) == (2, [1, 2, 3])


def test_another_comparison_begins_anew(tmp_path):
    run = Run(tmp_path)
    Journal(run, "abc").put("fit", "linear", value=1)
    other = Journal(run, "def")
    assert (len(other), other.get("fit", "linear")) == (0, None)
    assert len(Journal(run, "abc")) == 0  # nor does what was there come back


def test_a_finished_comparison_leaves_its_records(tmp_path):
    run = Run(tmp_path)
    journal = Journal(run, "abc")
    row = {"arm": "linear", "labels_per_class": "all", "seed": 3, "accuracy": 0.5}
    journal.put("fit", "linear", "all", 3, value={})
    journal.close(run, [{"row": row, "predicted": pack(np.array([1, 0])), "val_score": 0.25}])
    (record,) = read_records(run)
    assert (record.arm, record.budget, record.seed, record.val_score) == ("linear", "all", 3, 0.25)
    assert record.predicted.tolist() == [1, 0]
    assert record.row == row
    assert not journal.folder.exists()
    assert read_records(Run(tmp_path / "none")) == []
    assert len(json.loads(run.records.read_text())["predicted"]) < 40
