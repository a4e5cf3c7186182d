"""The classifier is scikit-learn's by its own checks, and the project's probe by its numbers."""

import doctest
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.calibration import nll
from twoviews.evaluation.folds import deal, most_folds
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.probe import fit_probe
from twoviews.sklearn import EmbeddingClassifier

CHECKED = [
    EmbeddingClassifier(),
    EmbeddingClassifier("knn"),
    EmbeddingClassifier(penalty=0.3, calibrate=False),
]


@parametrize_with_checks(CHECKED)  # type: ignore[untyped-decorator]
def test_every_check_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def vectors(
    *, count: int, classes: int, apart: float, seed: int, dimensions: int = 12
) -> tuple[np.ndarray, np.ndarray]:
    """Normal clouds around `classes` centres, of axes that differ in scale by 100."""
    centres = np.random.default_rng(99).normal(size=(classes, dimensions)) * apart
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    found = (centres[labels] + rng.normal(size=(count, dimensions))) * np.geomspace(0.1, 10, dimensions) + 5
    return found.astype(np.float32), labels


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    train, test = (vectors(count=n, classes=4, apart=0.6, seed=seed) for n, seed in ((160, 0), (400, 1)))
    return *train, *test


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [0.02, 1.0])
def test_c_is_that_of_logistic_regression(classes: int, c: float) -> None:
    x, y = vectors(count=60, classes=classes, apart=0.4, seed=3)
    ours = EmbeddingClassifier(C=c, calibrate=False).fit(x, y)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=1e-10, max_iter=1000)).fit(x.astype(float), y)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x.astype(float)), atol=1e-5)
    np.testing.assert_allclose(
        softmax(np.column_stack([0 * ours.decision_function(x), ours.decision_function(x)]), axis=1)
        if classes == 2
        else softmax(ours.decision_function(x), axis=1),
        ours.predict_proba(x),
        atol=1e-12,
    )


def test_the_penalty_is_that_of_the_probe(data: tuple[np.ndarray, ...]) -> None:
    x, y, others, _ = data
    ours = EmbeddingClassifier(penalty=3.0, calibrate=False).fit(x, y)
    probe = fit_probe(x, y, classes=4, strength=3.0 / len(x))
    np.testing.assert_array_equal(ours.predict_proba(others), softmax(probe.scores(others), axis=1))
    assert (ours.penalty_, ours.temperature_, ours.trials_) == (3.0, 1.0, [])


def test_the_penalty_is_chosen_on_what_was_held_out() -> None:
    """As many noisy dimensions as samples: what fits the samples best is not what foretells others best."""
    found = []
    for seed in (5, 7, 9):
        x, y = vectors(count=80, classes=2, apart=0.15, seed=seed, dimensions=80)
        others, truth = vectors(count=1000, classes=2, apart=0.15, seed=seed + 1, dimensions=80)
        chosen, loose = EmbeddingClassifier().fit(x, y), EmbeddingClassifier(penalty=0.03).fit(x, y)
        assert [trial["penalty"] for trial in chosen.trials_] == list(chosen.penalties)
        assert min(chosen.trials_, key=lambda trial: trial["nll"])["penalty"] == chosen.penalty_
        assert loose.score(x, y) == 1
        found.append((chosen.penalty_, chosen.score(others, truth) - loose.score(others, truth)))
    assert min(penalty for penalty, _ in found) > 0.3
    assert np.mean([gain for _, gain in found]) > 0.02


def test_few_labels_choose_nothing(data: tuple[np.ndarray, ...]) -> None:
    x, y, *_ = data
    few = np.concatenate([np.flatnonzero(y == 0)[:4], np.flatnonzero(y != 0)])
    fitted = EmbeddingClassifier().fit(x[few], y[few])
    assert (fitted.penalty_, fitted.trials_, fitted.temperature_) == (0.3, [], 1.0)
    assert EmbeddingClassifier().fit(x, y).trials_ != []


@pytest.mark.parametrize("options", [{"penalty": 0.003}, {"kind": "knn", "similarity_temperature": 0.01}])
def test_calibration_makes_probabilities_truer(options: dict[str, Any], data: tuple[np.ndarray, ...]) -> None:
    x, y, others, truth = data
    plain = EmbeddingClassifier(calibrate=False, **options).fit(x, y)
    mended = EmbeddingClassifier(**options).fit(x, y)
    before, after = (np.log(model.predict_proba(others)) for model in (plain, mended))
    assert mended.temperature_ > 1.2
    assert nll(after, truth) < nll(before, truth) - 0.1
    np.testing.assert_array_equal(plain.predict(others), mended.predict(others))


def test_neighbours_vote_as_in_the_evaluation(data: tuple[np.ndarray, ...]) -> None:
    x, y, others, _ = data
    ours = EmbeddingClassifier("knn", k=7, calibrate=False).fit(x, y)
    shares = knn_predict(x, y, others, classes=4, k=7)
    np.testing.assert_allclose(ours.predict_proba(others), shares, atol=1e-5)
    assert (ours.penalty_, ours.probe_) == (None, None)


def test_neighbours_of_huge_and_of_zero_vectors() -> None:
    x = np.array([[1e200, 0.0], [0.0, 1e-200], [0.0, 0.0]])
    fitted = EmbeddingClassifier("knn", k=1).fit(x, ["east", "north", "nowhere"])
    assert fitted.predict([[3.0, 0.1], [1e-300, 1e-290]]).tolist() == ["east", "north"]


def test_labels_may_be_text(data: tuple[np.ndarray, ...]) -> None:
    x, y, others, _ = data
    names = np.array(["shirt", "bag", "shoe", "dress"])
    named, numbered = EmbeddingClassifier().fit(x, names[y].tolist()), EmbeddingClassifier().fit(x, y + 10)
    assert named.classes_.tolist() == sorted(names)
    assert numbered.classes_.tolist() == [10, 11, 12, 13]
    assert numbered.predict(others).dtype == y.dtype
    assert set(named.predict(others)) == set(names)


def test_folds_come_from_the_seed(data: tuple[np.ndarray, ...]) -> None:
    x, y, *_ = data
    temperatures = [EmbeddingClassifier(random_state=seed).fit(x, y).temperature_ for seed in (0, 0, 1)]
    assert temperatures[0] == temperatures[1] != temperatures[2]
    state = np.random.RandomState(0)
    assert EmbeddingClassifier(random_state=state).fit(x, y).temperature_ == temperatures[0]


def test_a_search_over_it(data: tuple[np.ndarray, ...]) -> None:
    x, y, others, truth = data
    search = GridSearchCV(EmbeddingClassifier(calibrate=False), {"penalty": [1e5, 3.0]}, cv=3, scoring="neg_log_loss")
    search.fit(x, y)
    assert search.best_params_ == {"penalty": 3.0}
    assert search.best_estimator_.score(others, truth) > 0.6  # chance is 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "liner"}, "unknown kind 'liner': did you mean 'linear'"),
        ({"penalty": 1.0, "C": 1.0}, "give a penalty or C, not both"),
        ({"penalty": 0.0}, "penalty must be above 0 and finite, got 0.0"),
        ({"C": -1.0}, "C must be above 0 and finite, got -1.0"),
        ({"penalties": ()}, "penalties is empty"),
        ({"penalties": (1.0, np.inf)}, "each of penalties must be above 0 and finite, got inf"),
        ({"kind": "knn", "k": 0}, "k must be at least 1, got 0"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"similarity_temperature": np.nan}, "similarity_temperature must be above 0"),
    ],
)
def test_parameters_that_mean_nothing(options: dict[str, Any], message: str, data: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        EmbeddingClassifier(**options).fit(data[0], data[1])
    assert isinstance(caught.value, ValueError)


def test_one_class(data: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(DataError, match="y has one class, 'cat', 160 times"):
        EmbeddingClassifier().fit(data[0], ["cat"] * 160)


def test_folds_are_even_within_classes_and_over_all() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [7, 12, 30]))
    dealt = deal(labels, folds=5, seed=1)
    for part in (dealt, *(dealt[labels == index] for index in range(3))):
        assert np.ptp(np.bincount(part, minlength=5)) <= 1
    assert (deal(labels, folds=5, seed=2) != dealt).any()
    assert most_folds(labels, folds=10) == 7
    for folds in (1, 8):
        with pytest.raises(UsageError, match=f"{folds} folds cannot be made of classes of which the smallest has 7"):
            deal(labels, folds=folds, seed=0)


@pytest.mark.parametrize("name", ["evaluation.folds", "data.sources.rows", "sklearn.classifier"])
def test_docstring_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"twoviews.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
