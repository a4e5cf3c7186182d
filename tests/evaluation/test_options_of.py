"""What decides an arm, by name, so that runs can be held against each other."""

from twoviews.config import Evaluate
from twoviews.jobs.comparing.length import Length
from twoviews.jobs.comparing.protocol import options_of

DECIDES = {
    **dict.fromkeys(("knn_k", "knn_temperature"), "knn"),
    **dict.fromkeys(("linear_epochs", "linear_batch", "linear_lr"), "linear-adam"),
    **dict.fromkeys(("optimizer", "eps", "weight_decay", "schedule", "warmup", "policy"), "supervised"),
    **dict.fromkeys(("batch_size", "stop", "metric", "curves"), "supervised"),
    **dict.fromkeys(("head", "encoder_lr_ratio", "finetune_from", "fixed_penalty"), "finetune"),
    **dict.fromkeys(("distill_temperature", "fixed_lr"), "distill"),
}
"""Options of `evaluate`, each with an arm that it decides."""
ELSEWHERE = {
    *("updates", "epochs"),  # in the length
    *("penalties", "lrs"),  # in the choice and its trials, as what is fixed below five labels
    *("labels_per_class", "trained_at", "seeds", "subsets", "first_seed"),  # runs are paired where they share these
    *("validation", "split_seed", "overlap"),  # in the fingerprints of the data
    *("arms", "references", "primary", "all_limit"),  # what is run and held against what
}


def test_what_decides_an_arm_stands_in_its_options() -> None:
    """`compare` pairs runs that are alike in them."""
    assert {*DECIDES, *ELSEWHERE} == set(Evaluate.model_fields)
    other = {"optimizer": "adam", "schedule": "constant", "stop": "last", "head": "zeros", "finetune_from": "head"}
    other |= {"metric": "f1_macro", "policy": "digits"}
    base = Evaluate(stop="validation")
    for name, arm in DECIDES.items():
        value = other[name] if name in other else 2 * getattr(base, name)
        changed = base.model_copy(update={name: value})
        chosen = {arm: {"trials": [] if arm == "distill" else [{}], "setting": None}}
        before, after = (options_of(arm, o, Length(60, 64), chosen=chosen) for o in (base, changed))
        assert before != after, name


def test_a_student_is_decided_by_its_teacher_too() -> None:
    alone = {"distill": {"trials": [], "setting": None}}
    taught = {**alone, "finetune": {"trials": [], "setting": {"lr": 0.1, "stop": 1.0}}}
    found = [options_of("distill", Evaluate(), Length(60, 64), chosen=chosen)["teacher"] for chosen in (alone, taught)]
    assert found == [{"lr": 2e-3, "stop": 1.0}, {"lr": 0.1, "stop": 1.0}]
