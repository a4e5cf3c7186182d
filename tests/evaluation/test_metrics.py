import numpy as np
import pytest
from sklearn import metrics as reference

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.metrics import (
    METRICS,
    classification_metrics,
    confusion,
    item_values,
    item_weight,
    per_class,
    score,
)

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


def answers(n, *, classes, seed=0, right=0.6, shares=None):
    """Labels, and predictions that are right with probability `right`, else any class."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=shares)
    return labels, np.where(rng.random(n) < right, labels, rng.integers(0, classes, size=n))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_item_values_is_the_metric(case, metric):
    labels, predicted, classes = CASES[case]
    values = item_values(labels, predicted, classes=classes, metric=metric)
    want = classification_metrics(labels, predicted, classes=classes)[metric]
    assert (values.shape, values.dtype) == (labels.shape, np.float64)
    assert values.mean() == pytest.approx(want)
    assert score(labels, predicted, classes=classes, metric=metric) == want


@pytest.mark.parametrize("metric", METRICS)
def test_item_values_follow_the_derivative(metric):
    labels, predicted = answers(60, classes=4, shares=[0.4, 0.3, 0.2, 0.1])
    values = item_values(labels, predicted, classes=4, metric=metric)
    # A weight of 1 + eps for one item, as an extra eps of a thousand copies of everything.
    copies = 1000
    whole = np.tile(labels, copies), np.tile(predicted, copies)
    base = score(labels, predicted, classes=4, metric=metric)
    derived = []
    for i in range(60):
        more = [np.append(part, part[i]) for part in whole]
        derived.append(base + 60 * copies * (score(*more, classes=4, metric=metric) - base))
    derived = np.array(derived)
    if metric != "accuracy":  # undone: the stretch of each class about its mean
        for c in range(4):
            inside, n = labels == c, (labels == c).sum()
            values[inside] = values[inside].mean() + (values[inside] - values[inside].mean()) / np.sqrt(n / (n - 1))
    np.testing.assert_allclose(values, derived, atol=5e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_their_variance_is_that_of_other_test_sets(metric):
    shares = [0.5, 0.3, 0.15, 0.05]
    variances, scores = [], []
    for seed in range(800):
        labels, predicted = answers(200, classes=4, shares=shares, seed=seed)
        scores.append(score(labels, predicted, classes=4, metric=metric))
        variances.append(item_values(labels, predicted, classes=4, metric=metric).var(ddof=1) / 200)
    assert np.mean(variances) == pytest.approx(np.var(scores), rel=0.15)


@pytest.mark.parametrize("metric", METRICS)
def test_their_variance_is_that_of_a_bootstrap(metric):
    labels, predicted = answers(1000, classes=5, seed=3)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 1000, size=(1000, 1000))
    bootstrap = np.var([score(labels[d], predicted[d], classes=5, metric=metric) for d in drawn])
    assert item_values(labels, predicted, classes=5, metric=metric).var() / 1000 == pytest.approx(bootstrap, rel=0.15)


def test_a_class_of_few_items_does_not_look_surer_than_it_is():
    labels = np.array([0, 0, 1, 1])
    values = item_values(labels, np.array([0, 1, 1, 1]), classes=2, metric="balanced_accuracy")
    # Recall of class 0 is 1/2 of two items: its unbiased variance is 1/4, of half the metric 1/16.
    assert (values - values.mean()) @ (values - values.mean()) / 16 == pytest.approx(0.25 / 4)


def test_an_item_s_weight_is_what_its_answer_moves():
    labels = np.array([0] * 6 + [1] * 2)
    assert item_weight(labels, classes=2) == 1.0
    assert item_weight(np.repeat([0, 1, 2], 5), classes=4, metric="balanced_accuracy") == pytest.approx(1.0)
    moved = []
    for i in range(8):
        wrong = labels.copy()
        wrong[i] = 1 - wrong[i]
        moved.append(8 * (1 - score(labels, wrong, classes=2, metric="balanced_accuracy")))
    got = item_weight(labels, classes=2, metric="balanced_accuracy")
    assert got == pytest.approx(np.sqrt(np.mean(np.square(moved))))
    assert item_weight(labels, classes=2, metric="f1_macro") == got


def test_an_unknown_metric_is_named():
    labels = np.array([0, 1])
    with pytest.raises(UsageError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        score(labels, labels, classes=2, metric="acuracy")
    with pytest.raises(UsageError, match="unknown metric 'f1'"):
        item_values(labels, labels, classes=2, metric="f1")
