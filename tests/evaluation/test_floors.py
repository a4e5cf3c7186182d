from itertools import product

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from twoviews.evaluation.compare import Split
from twoviews.evaluation.floors import expected_f1, floors
from twoviews.evaluation.metrics import classification_metrics


def every_answer(labels: np.ndarray, classes: int) -> dict[str, float]:
    """The mean metrics over all answers that there are."""
    found = [
        classification_metrics(labels, np.array(answer), classes=classes)
        for answer in product(range(classes), repeat=len(labels))
    ]
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 1], [0, 0, 1, 1, 2, 2], [2, 2, 2, 2, 1, 1, 0, 2]])
def test_the_expected_guess_is_the_mean_over_all_answers(labels):
    labels = np.array(labels)
    classes = int(labels.max()) + 1
    exact = every_answer(labels, classes)
    assert expected_f1(labels, classes) == pytest.approx(exact["f1_macro"], abs=1e-12)
    (guess, _) = floors(Split(labels, labels[:0], labels, tuple("abc"[:classes])))
    for name in ("accuracy", "balanced_accuracy", "f1_macro"):
        assert guess[name] == pytest.approx(exact[name], abs=5e-5)


def test_a_class_that_test_lacks_counts_where_it_is_answered():
    labels = np.array([0, 0, 1, 1, 0, 1, 1])
    assert expected_f1(labels, 3) == pytest.approx(every_answer(labels, 3)["f1_macro"], abs=0.005)
    assert expected_f1(labels, 3) < expected_f1(labels, 2) - 0.1


def test_large_tests_neither_overflow_nor_lose_digits():
    for classes in (2, 10):
        labels = np.arange(200_000) % classes
        assert expected_f1(labels, classes) == pytest.approx(1 / classes, rel=1e-4)
    assert expected_f1(np.zeros(50, np.int64), 1) == pytest.approx(1.0)


def test_the_majority_is_that_of_train_scored_on_test():
    train, test = np.repeat([0, 1, 2], [5, 9, 2]), np.repeat([0, 1, 2], [3, 4, 13])
    guess, always = floors(Split(train, train[:0], test, ("ant", "bee", "cow")))
    assert (guess["name"], guess["class"], always["name"], always["class"]) == (
        *("random guess", None),
        *("majority class", "bee"),
    )
    answers = np.ones_like(test)
    assert always["accuracy"] == round(accuracy_score(test, answers), 4) == 0.2
    assert always["balanced_accuracy"] == round(balanced_accuracy_score(test, answers), 4)
    assert always["f1_macro"] == round(f1_score(test, answers, average="macro"), 4)
    assert floors(Split(np.array([1, 0]), train[:0], test, ("ant", "bee", "cow")))[1]["class"] == "ant"
