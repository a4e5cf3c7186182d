"""Tags from examples: one or several an image, held to scikit-learn's definitions and to examples left out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from twoviews.errors import DataError, UsageError
from twoviews.evaluation.certainty import Certainty, curve_from, items_needed, top_two
from twoviews.evaluation.multitagging import average_precision, best_threshold, f1, fit_multi_tagger
from twoviews.evaluation.probe import fit_probe
from twoviews.evaluation.tagging import FOLDS, PENALTY, Held, fit_tagger, folds_of, smooth_temperature


def blobs(each: int, *, tags: int, spread: float, seed: int, dimensions: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """`each` vectors around a centre a tag, float32, and their labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(tags, dimensions))
    labels = np.repeat(np.arange(tags), each)
    return (centres[labels] + spread * rng.normal(size=(len(labels), dimensions))).astype(np.float32), labels


class TestOneTag:
    @pytest.mark.parametrize("method", ["mean", "probe"])
    def test_it_tags_new_vectors(self, method: str) -> None:
        tagger = fit_tagger(*blobs(5, tags=4, spread=0.5, seed=0), tags=4, method=method)
        vectors, labels = blobs(50, tags=4, spread=0.5, seed=1)
        assert (tagger.scores(vectors).argmax(1) == labels).mean() > 0.9
        assert tagger.held.keys() == {method}

    def test_left_out_by_hand(self) -> None:
        vectors, labels = blobs(4, tags=3, spread=2.0, seed=2)
        tagger = fit_tagger(vectors, labels, tags=3)
        right = 0
        for at in range(len(labels)):
            rest = np.arange(len(labels)) != at
            probe = fit_probe(vectors[rest], labels[rest], classes=3, strength=PENALTY / (len(labels) - 1))
            right += int(probe.predict(vectors[at : at + 1])[0] == labels[at])
        assert tagger.held["probe"] == Held(right, 12)
        assert 0 < right < 12
        assert tagger.parts == 12
        assert tagger.certainty.items == 12

    def test_the_better_is_taken_and_the_simpler_of_equals(self) -> None:
        # Two tags on the four corners of a square: their means are the same point.
        corners = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]], dtype=np.float32)
        vectors = np.concatenate([corners * (1 + 0.01 * n) for n in range(6)])
        lifted = np.column_stack([vectors, vectors[:, 0] * vectors[:, 1] * 0.1, np.full(24, 50.0)]).astype(np.float32)
        labels = np.tile([0, 0, 1, 1], 6)
        tagger = fit_tagger(lifted, labels, tags=2)
        assert tagger.method == "probe"
        assert tagger.held["probe"].right == 24 > tagger.held["mean"].right
        apart = fit_tagger(*blobs(4, tags=3, spread=0.01, seed=3), tags=3)
        assert (apart.method, apart.held["mean"], apart.held["probe"]) == ("mean", Held(12, 12), Held(12, 12))

    def test_one_example_a_tag_is_not_measured(self) -> None:
        vectors, labels = blobs(1, tags=3, spread=0.1, seed=4)
        tagger = fit_tagger(vectors, labels, tags=3)
        assert (tagger.method, tagger.parts, tagger.certainty.items) == ("mean", 0, 0)
        assert tagger.held == {"mean": Held(0, 0), "probe": Held(0, 0)}
        assert tagger.scores(vectors).argmax(1).tolist() == [0, 1, 2]

    def test_a_tag_with_one_example_among_others_is_not_tried(self) -> None:
        vectors, labels = blobs(4, tags=3, spread=0.1, seed=5)
        tagger = fit_tagger(vectors[:9], labels[:9], tags=3)
        assert tagger.held["mean"] == Held(8, 8)

    def test_a_unit_is_left_out_as_a_whole(self) -> None:
        # Pictures of one session are alike and otherwise say nothing of the tag.
        rng = np.random.default_rng(6)
        sessions = rng.normal(size=(10, 30))
        vectors = (np.repeat(sessions, 3, axis=0) + 0.01 * rng.normal(size=(30, 30))).astype(np.float32)
        labels = np.repeat(np.arange(10) % 2, 3)
        units = [f"session {n}" for n in np.repeat(np.arange(10), 3)]
        alone, together = (fit_tagger(vectors, labels, tags=2, method="probe", units=u) for u in (None, units))
        assert alone.held["probe"].share == 1
        assert together.held["probe"].share < 0.8
        assert together.parts == 10

    def test_probabilities_are_calibrated_by_what_was_left_out(self) -> None:
        vectors, labels = blobs(15, tags=4, spread=1.5, seed=7)
        new, truth = blobs(300, tags=4, spread=1.5, seed=8)
        for method in ("mean", "probe"):
            tagger = fit_tagger(vectors, labels, tags=4, method=method)
            probabilities = tagger.certainty.probabilities(tagger.scores(new))
            right = (probabilities.argmax(1) == truth).mean()
            assert 0.5 < right < 1
            assert probabilities.max(1).mean() == pytest.approx(right, abs=0.06)

    @pytest.mark.parametrize(
        ("labels", "tags", "options", "error", "words"),
        [
            ([0, 0, 0], 1, {}, DataError, "have one tag"),
            ([0, 0, 2], 3, {}, DataError, "tag number 1 has no example"),
            ([0, 1, -1], 2, {}, DataError, "leave out samples without a label"),
            ([0, 1, 1], 2, {"method": "men"}, UsageError, "did you mean 'mean'"),
        ],
    )
    def test_refusals(self, labels: list[int], tags: int, options: dict, error: type, words: str) -> None:
        with pytest.raises(error, match=words):
            fit_tagger(np.eye(3, dtype=np.float32), np.array(labels), tags=tags, **options)

    def test_other_vectors_are_refused(self) -> None:
        tagger = fit_tagger(*blobs(2, tags=2, spread=0.1, seed=9), tags=2)
        with pytest.raises(UsageError, match="16 dimensions, got 3"):
            tagger.scores(np.ones((2, 3), np.float32))
        with pytest.raises(DataError, match="not finite"):
            tagger.scores(np.full((2, 16), np.nan, np.float32))


def worlds(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors with three tags that do not exclude each other, the last one rare."""
    rng = np.random.default_rng(seed)
    tags = rng.random((count, 3)) < [0.5, 0.3, 0.12]
    directions = np.random.default_rng(98).normal(size=(3, 12))
    return (tags @ directions + 1.8 * rng.normal(size=(count, 12))).astype(np.float32), tags


class TestSeveralTags:
    def test_what_cross_validation_says_holds_for_new_vectors(self) -> None:
        vectors, tags = worlds(900, seed=0)
        tagger = fit_multi_tagger(vectors, tags, names=["a", "b", "c"])
        new, truth = worlds(3000, seed=1)
        probabilities = tagger.probabilities(new)
        chosen = probabilities >= tagger.thresholds
        wanted = np.mean([average_precision_score(truth[:, t], probabilities[:, t]) for t in range(3)])
        assert tagger.mean_precision == pytest.approx(wanted, abs=0.05)
        assert tagger.f1_micro == pytest.approx(f1_score(truth, chosen, average="micro"), abs=0.05)
        assert tagger.f1_macro == pytest.approx(f1_score(truth, chosen, average="macro"), abs=0.05)
        assert tagger.parts == FOLDS
        assert probabilities.mean(0) == pytest.approx(truth.mean(0), abs=0.05)
        # A rare tag is worth giving below one half.
        assert tagger.thresholds[2] < 0.5
        assert f1(truth[:, 2], chosen[:, 2]) > f1(truth[:, 2], probabilities[:, 2] >= 0.5)

    def test_nothing_to_learn_gives_nothing(self) -> None:
        rng = np.random.default_rng(2)
        tags = rng.random((200, 2)) < 0.3
        tagger = fit_multi_tagger(rng.normal(size=(200, 20)).astype(np.float32), tags, names=["a", "b"])
        assert tagger.mean_precision == pytest.approx(0.3, abs=0.1)
        assert all(figure.f1 is not None and figure.f1 < 0.55 for figure in tagger.figures)

    def test_it_is_the_probe_of_two_classes(self) -> None:
        vectors, tags = worlds(40, seed=3)
        tagger = fit_multi_tagger(vectors, tags, names=["a", "b", "c"])
        probe = fit_probe(vectors, tags[:, 0].astype(np.int64), classes=2, strength=tagger.penalty / 40)
        scores = np.diff(probe.scores(vectors), axis=1)[:, 0]
        p = tagger.probabilities(vectors)[:, 0]
        odds = np.log(p / (1 - p))
        temperature = (scores @ scores) / (odds @ scores)
        assert odds == pytest.approx(scores / temperature, abs=1e-3)

    def test_a_tag_of_one_example_is_given_but_not_measured(self) -> None:
        vectors, tags = worlds(30, seed=4)
        tags[:, 2] = np.arange(30) == 7
        tagger = fit_multi_tagger(vectors, tags, names=["a", "b", "c"])
        rare = tagger.figures[2]
        assert (rare.tag, rare.examples, rare.precision, rare.f1, rare.threshold) == ("c", 1, None, None, 0.5)
        known = [figure.precision for figure in tagger.figures[:2]]
        assert tagger.mean_precision == pytest.approx(np.mean(known))

    def test_nothing_measured(self) -> None:
        tagger = fit_multi_tagger(np.eye(2, dtype=np.float32), np.eye(2, dtype=bool), names=["a", "b"])
        assert (tagger.mean_precision, tagger.f1_micro, tagger.f1_macro) == (None, None, None)
        assert (tagger.probabilities(np.eye(2, dtype=np.float32)) >= 0.5).tolist() == np.eye(2, dtype=bool).tolist()

    def test_refusals(self) -> None:
        vectors = np.eye(3, dtype=np.float32)
        with pytest.raises(DataError, match="every example has the tag 'all'"):
            fit_multi_tagger(vectors, np.array([[1, 1], [0, 1], [0, 1]], bool), names=["some", "all"])
        with pytest.raises(DataError, match="no example has the tag 'none'"):
            fit_multi_tagger(vectors, np.array([[1, 0], [0, 0], [0, 0]], bool), names=["some", "none"])
        with pytest.raises(UsageError, match="3 examples and 1 tags"):
            fit_multi_tagger(vectors, np.ones((3, 2), bool), names=["a"])

    @pytest.mark.parametrize("ties", [False, True])
    def test_average_precision_is_scikit_learns(self, ties: bool) -> None:
        rng = np.random.default_rng(5)
        for _ in range(20):
            scores, tags = rng.random(30), rng.random(30) < 0.3
            tags[0] = True
            scores = np.round(scores, 1) if ties else scores
            assert average_precision(scores, tags) == pytest.approx(average_precision_score(tags, scores))

    def test_no_threshold_is_better(self) -> None:
        rng = np.random.default_rng(6)
        for _ in range(20):
            scores, tags = np.round(rng.random(25), 1), rng.random(25) < 0.4
            tags[0] = True
            best = f1(tags, scores >= best_threshold(scores, tags))
            assert best == max(f1(tags, scores >= other) for other in np.linspace(0, 1, 21))


class TestFolds:
    def test_rare_tags_are_spread(self) -> None:
        tags = np.zeros((400, 3), bool)
        tags[:, 0] = True
        tags[:40, 1] = True
        tags[30:50, 2] = True
        folds = folds_of(tags)
        assert np.bincount(folds).tolist() == [40] * FOLDS
        assert np.bincount(folds[tags[:, 1]], minlength=FOLDS).max() <= 5
        assert np.bincount(folds[tags[:, 2]], minlength=FOLDS).tolist() == [2] * FOLDS

    def test_units_stay_together(self) -> None:
        rng = np.random.default_rng(0)
        units = [None if n % 7 == 0 else f"{n // 3}" for n in range(600)]
        folds = folds_of(rng.random((600, 2)) < 0.3, units=units)
        for unit in set(units) - {None}:
            assert len({fold for fold, of in zip(folds, units, strict=True) if of == unit}) == 1
        assert np.bincount(folds).max() - np.bincount(folds).min() < 10


class TestCertainty:
    def test_the_threshold_holds_what_it_promises(self) -> None:
        rng = np.random.default_rng(0)
        scores = 2.2 * rng.normal(size=(60_000, 5))
        drawn = (scores + rng.gumbel(size=scores.shape)).argmax(1)  # labels as probable as the scores say
        measured = Certainty.measured(scores[:5000], drawn[:5000], temperature=1.0)
        found = measured.threshold(0.9)
        assert found is not None
        p = measured.probabilities(scores[5000:])
        sure = p.max(1) >= found.probability
        right = p.argmax(1)[sure] == drawn[5000:][sure]
        assert right.mean() == pytest.approx(0.9, abs=0.02)
        assert 0.2 < sure.mean() < 0.5
        assert len(measured.curve) <= 1000
        assert measured.items == 5000

    def test_few_items_give_none_and_bad_ones_no_sure_answer(self) -> None:
        scores, labels = np.tile([[3.0, 0.0]], (17, 1)), np.zeros(17, np.int64)
        assert Certainty.measured(scores, labels, temperature=1.0).threshold(0.95) is None
        assert items_needed(0.95) == 18
        scores, labels = np.tile([[3.0, 0.0]], (40, 1)), np.arange(40) % 2
        found = Certainty.measured(scores, labels, temperature=1.0).threshold(0.95)
        assert (found.probability, found.answered) == (np.inf, 0)

    def test_an_item_reaches_its_own_threshold(self) -> None:
        rng = np.random.default_rng(1)
        scores = rng.normal(size=(100, 3))
        measured = Certainty.measured(scores, scores.argmax(1), temperature=0.7)
        found = measured.threshold(0.95)
        assert (measured.probabilities(scores).max(1) >= found.probability).all()
        assert (found.answered, found.right) == (100, 100)

    @pytest.mark.parametrize("target", [0, 1, -0.5, 95, float("nan")])
    def test_no_share(self, target: float) -> None:
        with pytest.raises(UsageError, match="between 0 and 1, got"):
            Certainty(1.0, ()).threshold(target)

    @pytest.mark.parametrize("rows", [[["0.9", "2", "3"]], [["0.5", "1", "1"], ["0.9", "2", "2"]], [["x", "1", "1"]]])
    def test_a_damaged_curve(self, rows: list) -> None:
        with pytest.raises(ValueError, match=r"follow|convert"):
            curve_from(rows)

    def test_the_first_two(self) -> None:
        first, second = top_two(np.array([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]))
        assert (first.tolist(), second.tolist()) == ([0, 2], [1, 1])

    def test_a_handful_of_right_answers_is_no_certainty(self) -> None:
        scores, labels = 30 * np.eye(4), np.arange(4)
        temperature = smooth_temperature(scores, labels)
        assert Certainty(temperature, ()).probabilities(scores).max(1) == pytest.approx(np.full(4, 5 / 6), abs=1e-3)
