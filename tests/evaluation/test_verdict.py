import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from twoviews.evaluation.compare import Comparison, Split
from twoviews.evaluation.labels_saved import labels_saved
from twoviews.evaluation.metrics import score
from twoviews.evaluation.statistics import crossed_interval, holm
from twoviews.evaluation.verdict import primary_arm, verdict

TRAIN, VAL = np.arange(300) % 3, np.arange(30) % 3
KEYS = {
    *("labels_per_class", "arm", "against", "mean_difference", "low", "high", "n", "n_test", "n_units", "items_share"),
    *("p", "p_adjusted", "conclusion"),
}


def world(arms, *, budgets=(5,), n=300, metric="accuracy", val=VAL, validated=None, seed=0):
    """A comparison. `arms`: name to the share of right answers, or a function of the budget, or (that, seeds)."""
    rng = np.random.default_rng(seed)
    test = np.arange(n) % 3
    comparison = Comparison(Split(TRAIN, val, test, ("a", "b", "c")), metric=metric)
    difficulty = rng.random(n)  # shared: arms of equal skill fail on much the same items
    for name, asked in arms.items():
        share, seeds = asked if isinstance(asked, tuple) else (asked, 5)
        for budget in budgets:
            right = share(budget) if callable(share) else share
            if right is None:
                continue
            for s in range(1 if seeds == 20 and budget == "all" else seeds):
                hit = 0.9 * difficulty + 0.1 * rng.random(n) < right
                comparison.predictions[name, budget, s] = np.where(hit, test, (test + 1) % 3)
                n_train = len(TRAIN) if budget == "all" else 3 * budget
                comparison.rows.append({"arm": name, "labels_per_class": budget, "seed": s, "n_train": n_train})
                if len(val):
                    comparison.val_scores[name, budget, s] = (validated or {}).get(name, right)
    return comparison


def only(rows, **wanted):
    (row,) = [row for row in rows if all(row[k] == v for k, v in wanted.items())]
    return row


@pytest.mark.parametrize(
    ("arms", "val", "primary"),
    [
        ({"linear": 0.7, "linear-adam": 0.9, "finetune": 0.8}, VAL, "linear-adam"),
        ({"linear": 0.7, "linear-adam": 0.6, "finetune": 0.8, "distill": 0.9}, VAL, "distill"),
        ({"linear": 0.7, "finetune": 0.7}, VAL, "linear"),
        ({"linear": 0.9, "linear-adam": 0.9, "finetune": 0.4}, VAL[:0], "finetune"),  # test answers decide nothing
        ({"linear": 0.4, "linear-adam": 0.9}, VAL[:0], "linear"),
        ({"linear-adam": 0.5}, VAL[:0], "linear-adam"),
        ({"knn": 0.9, "supervised": 0.5, "reference-linear:x": 0.9}, VAL, None),
    ],
)
def test_the_verdict_s_arm(arms, val, primary):
    comparison = world(arms, val=val)
    assert primary_arm(comparison, (5,)) == primary
    assert verdict(comparison, (5,))["primary_arm"] == primary


def test_it_is_chosen_on_validation_where_most_candidates_were_run_and_on_the_same_labels():
    arms = {"linear": (lambda b: 0.9 if b == 50 else 0.5, 20), "finetune": lambda b: None if b == 50 else 0.6}
    comparison = world(arms, budgets=(1, 10, 50))
    assert primary_arm(comparison, (1, 10, 50)) == "finetune"  # at 10, not at 50, where it stands alone
    # Over the five seeds that both have: what linear has on the others is luck.
    for (arm, budget, seed), _ in list(comparison.val_scores.items()):
        if (arm, budget) == ("linear", 10) and seed >= 5:
            comparison.val_scores[arm, budget, seed] = 1.0
    assert primary_arm(comparison, (1, 10, 50)) == "finetune"


def test_the_primary_arm_may_be_named_beforehand():
    comparison = world({"linear": 0.9, "finetune": 0.8, "supervised": 0.6})
    found = verdict(comparison, (5,), primary="finetune")
    assert found["primary_arm"] == found["comparisons"][0]["arm"] == "finetune"
    assert any("finetune, was named beforehand" in note for note in found["notes"])
    missing = verdict(comparison, (5,), primary="distill")
    assert missing["sentence"] == "No verdict: the arm named for it, 'distill', was not run."
    assert (missing["primary_arm"], missing["comparisons"]) == (None, [])


def test_an_arm_chosen_among_several_pays_for_the_choice():
    comparison = world({"linear": 0.65, "finetune": 0.64, "supervised": 0.6}, budgets=(5, 10))
    named, chosen = (verdict(comparison, (5, 10), primary=p) for p in ("linear", "auto"))
    for a, b in zip(named["comparisons"], chosen["comparisons"], strict=True):
        assert b["p"] == pytest.approx(min(1, 2 * a["p"]), rel=1e-3)
        assert b["high"] - b["low"] > a["high"] - a["low"]
    assert any("chosen over finetune on validation, at 10 labels a class" in note for note in chosen["notes"])
    alone = verdict(world({"linear": 0.65, "supervised": 0.6}, budgets=(5, 10)), (5, 10))
    assert not any("chosen" in note for note in alone["notes"])


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1_macro"])
def test_numbers_are_those_of_the_predictions_over_the_seeds_that_both_have(metric):
    comparison = world({"linear": (0.9, 20), "supervised": 0.6}, budgets=(1, 10), metric=metric)
    found = verdict(comparison, (1, 10))
    assert [row.keys() == KEYS for row in found["comparisons"]] == [True, True]
    for row in found["comparisons"]:
        truth, budget = comparison.split.test, row["labels_per_class"]
        scores = [
            [score(truth, comparison.predictions[arm, budget, s], classes=3, metric=metric) for s in range(5)]
            for arm in ("linear", "supervised")
        ]
        assert row["mean_difference"] == pytest.approx(np.subtract(*scores).mean(), abs=1e-6)
        assert (row["n"], row["n_test"], row["conclusion"]) == (5, 300, "helps")
    assert json.loads(json.dumps(found)) == found
    assert found["metric"] == metric
    assert {"accuracy": "test accuracy of", "balanced_accuracy": "balanced test accuracy", "f1_macro": "test macro F1"}[
        metric
    ] in found["sentence"]


def test_interval_and_p_are_those_of_the_statistics():
    budgets = (1, 10, 100)
    comparison = world({"linear": lambda b: 0.62 + b / 2000, "supervised": 0.6}, budgets=budgets)
    rows, truth = verdict(comparison, budgets)["comparisons"], comparison.split.test
    intervals = []
    for budget in budgets:
        hits = [
            np.stack([comparison.predictions[arm, budget, s] == truth for s in range(5)]).astype(float)
            for arm in ("linear", "supervised")
        ]
        intervals.append(crossed_interval(hits[0] - hits[1]))
    assert [(r["low"], r["high"]) for r in rows] == [pytest.approx((i.low, i.high), abs=1e-6) for i in intervals]
    assert [r["p"] for r in rows] == pytest.approx([i.p for i in intervals], rel=1e-3)
    assert [r["p_adjusted"] for r in rows] == pytest.approx(holm([i.p for i in intervals]), rel=1e-3)


def test_conclusions_are_corrected_and_the_interval_is_not():
    budgets = (1, 2, 5, 10, 20, 50, 100)
    comparison = world({"linear": lambda b: 0.617 if b == 10 else 0.6, "supervised": 0.6}, budgets=budgets, n=400)
    row = only(verdict(comparison, budgets)["comparisons"], labels_per_class=10)
    assert row["p"] < 0.05 < row["p_adjusted"]
    assert row["low"] > 0
    assert row["conclusion"] == "cannot tell"
    by_itself = verdict(comparison, (10,))["comparisons"][0]
    assert (by_itself["p"], by_itself["conclusion"]) == (row["p"], "helps")


def test_with_all_labels_an_arm_without_chance_goes_with_each_seed():
    comparison = world({"linear": (0.9, 20), "supervised": 0.6, "reference-linear:v": (0.5, 20)}, budgets=(5, "all"))
    found = verdict(comparison, (5, "all"))
    row = only(found["comparisons"], labels_per_class="all")
    assert (row["n"], row["conclusion"]) == (5, "helps")
    # Two of them: the same labels always give the same classifiers, so the items are all that is left to chance.
    row = only(found["others"], arm="linear", against="reference-linear:v", labels_per_class="all")
    assert (row["n"], row["conclusion"], row["items_share"]) == (1, "helps", 1.0)


@pytest.mark.parametrize(
    ("arm", "n", "conclusion"),
    [("pixels-linear", 5, "helps"), ("linear-adam", 1, "cannot tell"), ("random-linear", 1, "cannot tell")],
)
def test_one_fit_of_an_arm_with_chance_is_one_seed(arm, n, conclusion):
    found = verdict(world({"linear": 0.9, arm: (0.9, 20), "supervised": 0.6}, budgets=("all",)), ("all",))
    row = only(found["others"], arm=arm, against="supervised")
    assert (row["n"], row["conclusion"]) == (n, conclusion)


def test_one_seed_concludes_nothing_and_keeps_its_interval():
    comparison = world({"finetune": (0.95, 1), "supervised": (0.5, 1)})
    found = verdict(comparison, (5,))
    (row,) = found["comparisons"]
    assert (row["n"], row["p_adjusted"], row["conclusion"]) == (1, 1.0, "cannot tell")
    assert row["p"] < 0.001
    assert 0.3 < row["low"] < row["mean_difference"] < row["high"]
    assert "points, one seed)" in found["sentence"]
    assert any("one seed the interval covers the test images only" in note for note in found["notes"])


def test_one_test_item_has_no_interval():
    (row,) = verdict(world({"finetune": 0.95, "supervised": 0.5}, n=1), (5,))["comparisons"]
    assert (row["low"], row["high"], row["p_adjusted"], row["conclusion"]) == (None, None, 1.0, "cannot tell")


def test_the_others_are_beside_it():
    arms = {"knn": 0.9, "linear": 0.9, "finetune": 0.9, "supervised": 0.6, "random-linear": 0.5}
    arms |= {"reference-linear:v": 0.8, "reference-finetune:v": 0.8}
    found = verdict(world(arms), (5,), primary="linear")
    pairs = [(row["arm"], row["against"]) for row in found["others"]]
    against_supervised = ["knn", "finetune", "random-linear", "reference-finetune:v", "reference-linear:v"]
    assert pairs == [
        *[(arm, "supervised") for arm in against_supervised],
        *[("linear", other) for other in ("reference-finetune:v", "reference-linear:v", "random-linear")],
    ]
    assert all(row.keys() == KEYS for row in found["others"])
    fitted = verdict(world(arms), (5,), primary="finetune")["others"]
    assert ("finetune", "random-linear") not in [(row["arm"], row["against"]) for row in fitted]


def test_without_arms_there_is_no_verdict():
    assert verdict(world({"knn": 0.9, "supervised": 0.5}), (5,))["sentence"].startswith("No verdict: neither")
    found = verdict(world({"linear": 0.9, "reference-linear:v": 0.5}), (5,))
    assert found["sentence"].startswith("No verdict: the supervised baseline was not run at all beside a linear probe")
    assert (found["comparisons"], found["labels_saved"]) == ([], [])
    assert [row["against"] for row in found["others"]] == ["reference-linear:v"]
    arms = {"linear": lambda b: 0.9 if b == 1 else None, "supervised": lambda b: 0.5 if b == 5 else None}
    assert "was not run at the same labels" in verdict(world(arms, budgets=(1, 5)), (1, 5))["sentence"]
    empty = verdict(Comparison(Split(TRAIN, VAL, VAL, ("a", "b", "c"))), (5,))
    assert (empty["comparisons"], empty["others"], empty["primary_arm"]) == ([], [], None)


class TestSentence:
    def test_it_says_what_was_found_where_and_how_sure(self):
        arms = {"linear": lambda b: {1: 0.8, 10: 0.6, 100: 0.5}[b], "supervised": lambda b: 0.5 + (b > 1) * 0.1}
        found = verdict(world(arms, budgets=(1, 10, 100)), (1, 10, 100))
        assert [row["conclusion"] for row in found["comparisons"]] == ["helps", "cannot tell", "hurts"]
        points = [
            f"{100 * row['mean_difference']:+.1f} ± {50 * (row['high'] - row['low']):.1f} points"
            for row in found["comparisons"]
        ]
        assert found["sentence"] == (
            f"Self-supervision helped at 1 label a class ({points[0]}). It hurt at 100 labels a class ({points[2]}). "
            f"There is no clear difference at 10 labels a class ({points[1]}). With 3 labels it was better than "
            "training from scratch with 300, the most that were tried. Compared: test accuracy of a linear probe on "
            "the frozen encoder and of training from scratch on the same labels, ± a 95 % interval over 5 seeds and "
            "300 test images; what is said of the 3 budgets holds for all together (Holm). The encoder was pretrained "
            "once."
        )

    def test_its_subject_is_what_it_credits(self):
        found = verdict(world({"linear": 0.8, "supervised": 0.5}), (5,), subject="training on labels")
        assert found["sentence"].startswith("Training on labels helped at 5 labels a class (+")
        found = verdict(world({"linear": 0.6, "supervised": 0.6}), (5,), subject="training on labels")
        assert found["sentence"].startswith("Cannot tell whether training on labels helped at 5 labels a class (")

    def test_it_names_the_layer_that_adam_trained(self):
        found = verdict(world({"linear-adam": 0.8, "supervised": 0.5}), (5,))
        assert "a softmax layer on the frozen encoder, trained with Adam" in found["sentence"]

    def test_many_budgets_become_a_range(self):
        budgets = (1, 2, 5, 10, 20, "all")
        gains = {b: 0.9 - 0.05 * i for i, b in enumerate(budgets)}
        comparison = world({"finetune": gains.get, "supervised": 0.4}, budgets=budgets)
        sentence = verdict(comparison, budgets)["sentence"]
        assert sentence.startswith("Self-supervision helped at every budget from 1 label a class to all labels (+")
        assert sentence.count("points") == 1
        comparison = world(
            {"finetune": gains.get, "supervised": lambda b: gains[5] if b == 5 else 0.4}, budgets=budgets
        )
        sentence = verdict(comparison, budgets)["sentence"]
        assert sentence.startswith(
            "Self-supervision helped at 5 of the 6 budgets from 1 label a class to all labels (+"
        )
        assert "There is no clear difference at 5 labels a class (" in sentence

    @pytest.mark.parametrize("n", [24, 60])
    def test_few_test_items_are_named_as_the_reason(self, n):
        found = verdict(world({"finetune": 0.62, "supervised": 0.6}, n=n), (5,))
        half = 50 * (found["comparisons"][0]["high"] - found["comparisons"][0]["low"])
        told = f"The {n} test images are few: they do not show a difference below about {half:.0f} points"
        assert told in found["sentence"]
        assert any(told in note for note in found["notes"])

    def test_many_test_items_are_not(self):
        assert "few" not in verdict(world({"finetune": 0.6, "supervised": 0.6}, n=3000), (5,))["sentence"]

    def test_seeds_that_differ_are_named_where_they_are_the_reason(self):
        comparison = world({"finetune": 0.6, "supervised": 0.6}, n=2000)
        truth = comparison.split.test
        for seed, share in enumerate((0.4, 0.8, 0.5, 0.9, 0.6)):
            right = np.arange(2000) < share * 2000
            comparison.predictions["finetune", 5, seed] = np.where(right, truth, (truth + 1) % 3)
        assert "The 5 seeds differ much" in verdict(comparison, (5,))["sentence"]

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            (
                "timm:vit_small_patch14_dinov2.lvd142m",
                "Public weights (timm:vit_small_patch14_dinov2.lvd142m) are better",
            ),
            ("resnet18.a1_in1k", "Public weights (resnet18.a1_in1k) are better"),
            ("runs/other", "The reference (runs/other) is better"),
        ],
    )
    def test_a_reference_that_wins_is_recommended(self, name, said):
        arms = {"linear": 0.7, "supervised": 0.5, f"reference-linear:{name}": 0.9, f"reference-finetune:{name}": 0.8}
        found = verdict(world(arms, budgets=(5, 10)), (5, 10))
        row = only(found["others"], arm="linear", against=f"reference-linear:{name}", labels_per_class=10)
        assert row["conclusion"] == "hurts"
        points = f"{-100 * row['mean_difference']:.1f} ± {50 * (row['high'] - row['low']):.1f} points"
        end = "use them" if said.startswith("Public") else "use it"
        told = f"{said} by {points} at 10 labels a class (frozen, with a linear probe): {end}."
        assert told in found["sentence"]
        assert told in found["notes"]

    def test_a_reference_that_loses_or_ties_is_not(self):
        arms = {"linear": 0.9, "supervised": 0.5, "reference-linear:v": 0.7}
        sentence = verdict(world(arms), (5,))["sentence"]
        assert "It is better than public weights (v) at 5 labels a class (+" in sentence
        assert "use them" not in sentence
        tied = verdict(world(arms | {"reference-linear:v": 0.9}), (5,))["sentence"]
        assert "public weights" not in tied.lower()

    def test_a_reference_that_wins_somewhere_only_is_recommended_there(self):
        arms = {"linear": lambda b: 0.9 if b == 5 else 0.7, "supervised": 0.5, "reference-linear:v": 0.8}
        sentence = verdict(world(arms, budgets=(5, 10)), (5, 10))["sentence"]
        assert "at 10 labels a class (frozen, with a linear probe), but worse at 5 labels a class (+" in sentence
        assert "use them there only." in sentence

    def test_what_an_untrained_encoder_does_as_well_is_not_credited(self):
        arms = {"linear": 0.8, "supervised": 0.5, "random-linear": 0.8}
        sentence = verdict(world(arms), (5,))["sentence"]
        assert (
            "But it is not clearly better than a linear probe on an untrained encoder at 5 labels a class (" in sentence
        )
        assert "untrained" not in verdict(world(arms | {"random-linear": 0.6}), (5,))["sentence"]

    def test_one_untrained_encoder_with_all_labels_is_no_doubt(self):
        arms = {"linear": (0.8, 20), "supervised": 0.5, "random-linear": (0.3, 20)}
        found = verdict(world(arms, budgets=(5, "all")), (5, "all"))
        row = only(found["others"], arm="linear", against="random-linear", labels_per_class="all")
        assert (row["n"], row["conclusion"]) == (1, "cannot tell")
        assert "and with all labels (+" in found["sentence"]
        assert "untrained" not in found["sentence"]


class TestNotes:
    def test_shuffled_labels_that_still_tell_something_cast_doubt(self):
        arms = {"linear": 0.8, "supervised": 0.5}
        sound = world(arms)
        rng = np.random.default_rng(0)
        for seed in range(5):
            sound.predictions["shuffled-linear", 5, seed] = rng.choice(3, size=300, p=[0.6, 0.3, 0.1])
        assert not any("shuffled" in note for note in verdict(sound, (5,))["notes"])
        leaky = world(arms | {"shuffled-linear": 0.5}, budgets=(5, "all"))
        assert (
            "shuffled labels is right more often than chance at 5 labels a class and with all labels"
            in (verdict(leaky, (5, "all"))["notes"][0])
        )

    def test_a_rare_class_with_a_full_vote_is_named(self):
        comparison = world({"linear": 0.8, "supervised": 0.5}, n=12, metric="balanced_accuracy")
        assert any("smallest class has 4 test images" in note for note in verdict(comparison, (5,))["notes"])
        comparison.metric = "accuracy"
        assert not any("smallest class" in note for note in verdict(comparison, (5,))["notes"])

    def test_all_labels_are_one_set_of_labels(self):
        found = verdict(world({"linear": 0.8, "supervised": 0.5}, budgets=("all",)), ("all",))
        assert any("not for others" in note for note in found["notes"])


COUNTS = {(arm, b): 10 * b for arm in ("linear", "supervised") for b in (1, 2, 10, 100)}


class TestLabelsSaved:
    def saved(self, score, curve):
        scores = {("linear", 1): {0: score}, **{("supervised", b): {0: s} for b, s in curve.items()}}
        (row,) = labels_saved(scores, COUNTS, baseline="supervised")
        assert (row["arm"], row["labels_per_class"], row["labels"], row["score"]) == ("linear", 1, 10, score)
        return row["baseline_labels"], row["more_than"], row["at_most"]

    def test_it_is_log_linear_between_budgets(self):
        curve = {1: 0.4, 10: 0.6, 100: 0.7}
        assert self.saved(0.5, curve) == (pytest.approx(10 * 10**0.5, abs=0.05), None, None)
        assert self.saved(0.6, curve) == (100.0, None, None)
        assert self.saved(0.65, curve) == (pytest.approx(100 * 10**0.5, abs=0.05), None, None)
        assert self.saved(0.4, curve) == (10.0, None, None)

    def test_it_is_censored_at_both_ends(self):
        assert self.saved(0.8, {1: 0.4, 100: 0.7}) == (None, 1000, None)
        assert self.saved(0.3, {1: 0.4, 100: 0.7}) == (None, None, 10)
        assert self.saved(0.8, {2: 0.4}) == (None, 20, None)

    def test_a_dip_of_the_baseline_saves_no_labels(self):
        curve = {1: 0.4, 2: 0.6, 10: 0.5, 100: 0.7}
        assert self.saved(0.55, curve)[0] < 20
        assert self.saved(0.65, curve)[0] == pytest.approx(10 * 100**0.5 * 10**0.5, rel=0.01)

    def test_it_compares_the_seeds_that_the_baseline_has(self):
        scores = {
            ("linear", 1): {0: 0.5, 1: 0.5, 2: 1.0},
            ("supervised", 1): {0: 0.4, 1: 0.4},
            ("supervised", 10): {0: 0.6},
        }
        (row,) = labels_saved(scores, COUNTS, baseline="supervised")
        assert row["score"] == 0.5
        del scores["supervised", 1]
        assert labels_saved(scores, COUNTS, baseline="supervised")[0]["score"] == pytest.approx(2 / 3, abs=1e-6)

    def test_the_verdict_says_it_of_a_budget_that_is_sure(self):
        arms = {"linear": lambda b: 0.6 if b == 10 else 0.4, "supervised": {1: 0.4, 10: 0.5, 100: 0.7}.get}
        found = verdict(world(arms, budgets=(1, 10, 100), n=2000), (1, 10, 100))
        row = only(found["labels_saved"], arm="linear", labels_per_class=10)
        assert (row["labels"], row["more_than"]) == (30, None)
        assert row["baseline_labels"] == pytest.approx(30 * 10**0.5, rel=0.1)
        about = float(f"{row['baseline_labels']:.2g}")
        assert f"With 30 labels it was as good as training from scratch with about {about:.0f}." in found["sentence"]
        assert [r["arm"] for r in found["labels_saved"]] == ["linear"] * 3


def simulation():
    path = Path(__file__).parents[2] / "benchmarks" / "verdicts.py"
    spec = importlib.util.spec_from_file_location("verdicts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("luck", [0.08, 0.3])
def test_false_verdicts_are_as_rare_as_stated(luck):
    module = simulation()
    case, budgets = module.Case("null", 200, seed=luck), (1, 10, 100, "all")
    row = module.measure(case, 0.0, simulations=200, seed=0, budgets=budgets)
    assert row["false_verdicts"] <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert row["intervals_that_cover"] >= 0.95


def test_a_gain_of_ten_points_is_found():
    module = simulation()
    row = module.measure(module.Case("gain", 372), 0.1, simulations=100, seed=0, budgets=(1, 10, 100, "all"))
    assert row["verdicts_with_helps"] >= 0.9
    assert row["budgets_with_hurts"] == 0


def test_images_of_a_patient_are_not_independent():
    """100 patients of 6 images each, which an arm gets right or wrong together."""
    units = np.repeat(np.arange(100), 6)
    test = np.arange(600) % 3
    rng = np.random.default_rng(0)
    right = {}
    for arm, share in (("linear", 0.62), ("supervised", 0.5)):
        hard = 0.9 * rng.random(100) + 0.1 * rng.random((5, 100))  # patients, much the same ones for each seed
        right[arm] = np.repeat(hard < share, 6, axis=1)
    found = {}
    for name, known in (("images", None), ("patients", units)):
        comparison = Comparison(Split(TRAIN, VAL, test, ("a", "b", "c"), known))
        for arm, hits in right.items():
            for seed, hit in enumerate(hits):
                comparison.predictions[arm, 5, seed] = np.where(hit, test, (test + 1) % 3)
                comparison.rows.append({"arm": arm, "labels_per_class": 5, "seed": seed, "n_train": 15})
        judged = verdict(comparison, (5,))
        found[name] = only(judged["comparisons"], labels_per_class=5)
        assert ("in 100 groups" in " ".join(judged["notes"])) == (known is not None)
    images, patients = found["images"], found["patients"]
    assert (images["n_units"], patients["n_units"], patients["n_test"]) == (600, 100, 600)
    assert images["mean_difference"] == pytest.approx(patients["mean_difference"])
    assert patients["high"] - patients["low"] > 1.3 * (images["high"] - images["low"])
