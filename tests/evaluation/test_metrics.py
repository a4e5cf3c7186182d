import numpy as np
import pytest
from sklearn import metrics as reference

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.metrics import classification_metrics, confusion, per_class

CASES = {
    "usual": (np.array([0, 1, 2, 2, 1, 0, 2, 1]), np.array([0, 1, 2, 1, 1, 2, 2, 0]), 3),
    "one class never predicted": (np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 1]), 3),
    "predicted class not in labels": (np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), 3),
    "class in neither": (np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 5),
    "all wrong": (np.array([0, 1]), np.array([1, 0]), 2),
    "single": (np.array([1]), np.array([1]), 3),
    "more classes than half the samples": (np.arange(30), np.arange(30)[::-1].copy(), 30),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
def test_equals_scikit_learn(case):
    labels, predicted, classes = CASES[case]
    got = classification_metrics(labels, predicted, classes=classes)
    macro = {"average": "macro", "zero_division": 0}
    assert got == pytest.approx(
        {
            "accuracy": reference.accuracy_score(labels, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
            "precision_macro": reference.precision_score(labels, predicted, **macro),
            "recall_macro": reference.recall_score(labels, predicted, **macro),
            "f1_macro": reference.f1_score(labels, predicted, **macro),
        }
    )
    every = list(range(classes))
    np.testing.assert_array_equal(
        confusion(labels, predicted, classes=classes),
        reference.confusion_matrix(labels, predicted, labels=every),
    )
    rows = per_class(labels, predicted, classes=[f"class {i}" for i in every])
    columns = reference.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[name] for row in rows] == pytest.approx(column.tolist())
    assert [row["class"] for row in rows] == [f"class {i}" for i in every]
    assert [row["predicted"] for row in rows] == np.bincount(predicted, minlength=classes).tolist()


def test_values_are_plain_numbers_and_nothing_warns():
    for labels, predicted, classes in CASES.values():
        got = classification_metrics(labels, predicted, classes=classes)
        assert {type(v) for v in got.values()} == {float}
        for row in per_class(labels, predicted, classes=[str(i) for i in range(classes)]):
            assert {type(v) for v in row.values()} == {str, float, int}


@pytest.mark.parametrize(
    ("labels", "predicted", "error", "message"),
    [
        ([0, 1], [0], UsageError, r"labels \(2,\), predicted \(1,\)"),
        ([], [], DataError, "no labelled sample"),
        ([0, -1], [0, 0], DataError, "labels run from -1 to 0"),
        ([0, 1], [0, 2], DataError, r"predicted run from 0 to 2, but must lie in 0 \.\. 1"),
    ],
)
def test_bad_input_is_named(labels, predicted, error, message):
    with pytest.raises(error, match=message):
        classification_metrics(np.array(labels, dtype=int), np.array(predicted, dtype=int), classes=2)
