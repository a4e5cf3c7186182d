"""How the numbers of a comparison came about, in words: the protocol that stands beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

from twoviews.config import Evaluate
from twoviews.evaluation.compare import FIXED_BELOW, Budget, Comparison, is_trained
from twoviews.jobs.comparing.arms import PIXEL_SIDE, Arms
from twoviews.jobs.comparing.length import Length
from twoviews.jobs.comparing.request import subsets_of


def protocol(
    room: Arms,
    comparison: Comparison,
    budgets: Sequence[Budget],
    *,
    length: Length,
    trained: Sequence[str],
    trained_budgets: Sequence[Budget],
) -> dict[str, Any]:
    """How the numbers came about."""
    o = room.options
    used = room.info.get("labels_trained_on")
    labels = f"with the labels of {used:,} images" if used else "without labels"
    n_val = len(room.data.val)
    trials = {name: len(found["trials"]) for name, found in comparison.chosen.items() if found["trials"]}
    early = o.stop == "validation" and any(map(is_trained, trials))
    words = {
        "train": room.data.train.spec,
        "test": room.data.test.spec,
        "validation": room.data.val_origin,
        "pool_overlap": room.data.overlap,
        "groups": room.data.groups,
        "n_train_available": len(room.data.train),
        "n_val": n_val,
        "n_test": len(room.data.test),
        "metric": o.metric,
        "labels_per_class": list(budgets),
        "trained_at": list(trained_budgets) if trained else [],
        "seeds": _seeds(comparison, trained_budgets if trained else []),
        "subsets_of_cached_arms": subsets_of(o),
        "subsets": "stratified, seeded, nested over budgets, the same for all arms; all labels are one subset, on "
        "which trained arms differ by start and views",
        "pretraining": f"run once, {labels}; only the label subsets and the classifiers are reseeded",
        "features": "h, the encoder's output, of one clean view; never the projection z",
        "knn": f"cosine, {o.knn_k} neighbours or all if fewer, weights exp(similarity / {o.knn_temperature:g})",
        "linear": "multinomial logistic regression by L-BFGS on standardised features; mean loss + strength x squared "
        "weights, intercept free, strength = penalty / labels",
        "trained": _training(o, length, trained, early=early) if trained else "not run",
        "batchnorm": "statistics re-estimated on 512 clean training samples without labels, in all trained arms alike",
        "floors": f"random-linear: the same network with random weights; pixels: the clean view at "
        f"{min(PIXEL_SIDE, room.ground.clean.image_size)} px; random guess and majority class: expected values",
        "selection": _selection(o, comparison, trials, validated=n_val > 0),
        "tried": trials,
        "settings": comparison.chosen,
        "options": {arm: options_of(arm, o, length, chosen=comparison.chosen) for arm in comparison.chosen},
        "statistics": "paired differences over seeds and test items: two-way random effects, each part with its own t "
        "quantile (Banerjee 1960), 95 %; Holm over the budgets of the primary comparison, whose p counts once for each "
        "arm that it was chosen among (docs/protocol.md)",
        "primary": "named beforehand" if o.primary != "auto" else "the best pretrained arm on validation, before test",
        "metrics": "macro averages over classes; scikit-learn's definitions",
        "calibration": "ECE over 15 bins of equal width; the temperature is fitted on validation",
        "encoder_hash": room.encoder_hash,
        "frozen": "a hash over weights and buffers was equal before and after the frozen arms",
        "data_fingerprints": {n: c.fingerprint for n, c in room.ground.parts.items()},
        "labels_fingerprints": {n: c.labels_fingerprint for n, c in room.ground.parts.items()},
    }
    if "linear-adam" in comparison.chosen:
        words["linear-adam"] = (
            f"softmax regression with Adam on the features as they are: {o.linear_epochs} passes in batches of "
            f"{o.linear_batch}, rate {o.linear_lr:g}, eps {o.eps:g}, Glorot's start, no penalty"
        )
    if "distill" in trained:
        words["distill"] = (
            "the fine-tuned classifier labels the images of the pool, clean views, temperature "
            f"{o.distill_temperature:g}; a copy of it learns these labels on augmented views, for as many updates as "
            "it had (self-distillation, Chen et al. 2020b)"
        )
    if trained and n_val:
        words["curves"] = (
            "validation accuracy on the way: at the largest budget, first seed, BatchNorm's statistics re-estimated "
            "for each point as at the end; an epoch is a pass over the labelled subset"
        )
    words["paragraph"] = _paragraph(room, comparison, words, trained)
    return words


FITTED = {"knn": {"knn_k", "knn_temperature"}, "linear-adam": {"linear_epochs", "linear_batch", "linear_lr", "eps"}}
"""Options of `evaluate` that decide an arm on cached features, beside the penalty that is chosen."""
TRAINED = {"policy", "optimizer", "eps", "weight_decay", "schedule", "warmup", "batch_size"}
"""Options of `evaluate` that decide each arm that trains an encoder."""
TUNED = TRAINED | {"encoder_lr_ratio", "head"}
"""And each that begins with a trained one."""


def options_of(arm: str, o: Evaluate, length: Length, *, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What decides an arm beside encoder, data and its own choice: two runs alike in it and in that can be compared.

    `chosen`: the choice of each arm that was run, as `Comparison.chosen`.
    """
    tried = bool(chosen[arm]["trials"])
    found: dict[str, Any] = {"metric": o.metric} if tried else {}
    if not is_trained(arm):
        return found | o.model_dump(include=FITTED.get(arm.removeprefix("pixels-"), set()))
    found |= o.model_dump(include=TRAINED if arm == "supervised" else TUNED)
    found |= {"passes" if length.passes else "updates": length.count, "stop": o.stop if tried else "last"}
    if found["stop"] == "validation":
        found["curves"] = o.curves  # the points that it may stop at
    if arm == "supervised":
        found["head"] = "glorot" if o.head == "glorot" else "zeros"
    elif o.head == "probe":
        found["fixed_penalty"] = o.fixed_penalty  # of that probe
    if arm in ("finetune", "distill"):
        found["finetune_from"] = o.finetune_from
    if arm == "distill":
        found["distill_temperature"] = o.distill_temperature
        found["teacher"] = (chosen.get("finetune") or {}).get("setting") or {"lr": o.fixed_lr, "stop": 1.0}
    return found


def _seeds(comparison: Comparison, budgets: Sequence[Budget]) -> int | str:
    """Trainings a budget that were run, which time may have cut; a range where budgets differ."""
    rows = [row for row in comparison.rows if is_trained(row["arm"])]
    counts = [len({row["seed"] for row in rows if row["labels_per_class"] == budget}) for budget in budgets]
    least, most = min(counts, default=0), max(counts, default=0)
    return most if least == most else f"{least} to {most}"


def _selection(o: Evaluate, comparison: Comparison, tried: Mapping[str, int], *, validated: bool) -> str:
    """How settings were chosen; those that had no trials by name, where others had some."""
    if not tried:
        why = "" if validated else ", as there is no validation"
        return f"nothing was selected{why}: settings were fixed beforehand"
    words = (
        f"one setting an arm, by {METRIC_NAMES[o.metric]} on validation at the reference budget; below {FIXED_BELOW} "
        "labels a class fixed beforehand, without validation"
    )
    fixed = _fixed(comparison)
    return f"{words}; of {' and '.join(fixed)} fixed beforehand everywhere" if fixed else words


def _fixed(comparison: Comparison) -> list[str]:
    """Arms with a setting that was not tried."""
    chosen = comparison.chosen
    return [arm for arm, found in chosen.items() if found["setting"] is not None and not found["trials"]]


METRIC_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1_macro": "macro F1"}


def _paragraph(room: Arms, comparison: Comparison, words: dict[str, Any], trained: Sequence[str]) -> str:
    """For the methods section of a paper."""
    o, encoder = room.options, room.info["encoder"]
    used = room.info.get("labels_trained_on")
    count = room.info["data"]["count"]
    budgets = ", ".join(str(budget) for budget in words["labels_per_class"])
    sentences = [
        f"A {encoder['name']} was pretrained once on {count:,} images "
        f"{f'and the labels of {used:,} of them' if used else 'without labels'} "
        f"({room.config.method.name}, {room.info['epochs']:g} epochs).",
        f"Classifiers were compared on stratified, nested subsets of {words['n_train_available']:,} labelled images "
        f"with {budgets} labels a class, the same subsets for every arm, and tested on {words['n_test']:,} images.",
        f"Arms on frozen features were fitted on {words['subsets_of_cached_arms']} subsets a budget"
        + (f", arms that train an encoder on {words['seeds']}, each from another seed." if trained else "."),
    ]
    if words["tried"]:
        fixed = _fixed(comparison)
        sentences.append(
            f"Each arm's setting was chosen once, by {METRIC_NAMES[o.metric]} on {words['n_val']:,} validation images "
            f"(whose labels are not counted in the budgets), and below {FIXED_BELOW} labels a class fixed beforehand"
            + (f"; that of {' and '.join(fixed)} was fixed beforehand everywhere." if fixed else ".")
        )
    else:
        sentences.append("All settings were fixed beforehand.")
    if trained:
        sentences.append(f"{_training_sentence(words['trained'])}")
    sentences.append(
        f"Differences in {METRIC_NAMES[o.metric]} are paired over seeds and test images; 95 % intervals follow from a "
        "two-way random-effects model (Dorfman et al. 1992; quantiles after Banerjee 1960), and p values were "
        "corrected over budgets by Holm's method"
        + (" and for the choice of the arm by Bonferroni's" if o.primary == "auto" else "")
        + ". The test set was not used for any choice."
    )
    sentences.append(f"Regarding the pool: {words['pool_overlap']}.")
    return " ".join(sentences)


def _training_sentence(text: str) -> str:
    name, colon, rest = text.partition(": ")
    return f"Training of {name}{colon}{rest}."


def _training(o: Evaluate, length: Length, trained: Sequence[str], *, early: bool) -> str:
    """How the trained arms were trained, in words; `early`: up to where trials were best on validation."""
    name = {"adamw": "AdamW", "adam": "Adam"}[o.optimizer]
    usual = Evaluate()
    eps = f" with eps {o.eps:g}" if o.eps != usual.eps else ""
    decay = f", weight decay {o.weight_decay:g}" if o.weight_decay != usual.weight_decay else ""
    rate = {"cosine": "cosine", "constant": "a constant rate"}[o.schedule]
    warmup = f"warm-up over {o.warmup:g} of it and " if o.warmup else ""
    head = {
        "probe": "fine-tuning starts from the linear probe",
        "zeros": "the linear layer starts at zero",
        "glorot": "the linear layer starts with Glorot's draws",
    }[o.head]
    if o.finetune_from == "head":
        head += "; fine-tuning keeps the first layer of the projection head below it"
    end = "last update"
    if early:
        end = (
            "stopped where validation was best in the trials, alike for all seeds and all budgets from "
            f"{FIXED_BELOW} labels a class on"
        )
    return (
        f"{' and '.join(trained)}: {length} {'in batches of' if length.passes else 'of'} {o.batch_size} samples, "
        f"{name}{eps}{decay}, {warmup}{rate}, views '{o.policy}', {end}; "
        f"the encoder's rate is {o.encoder_lr_ratio:g} of the head's in fine-tuning, 1 in the baseline; {head}"
    )
