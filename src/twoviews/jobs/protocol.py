"""How the numbers of a comparison came about, in words: the protocol that stands beside them."""

from collections.abc import Sequence
from typing import Any

from twoviews.config import Evaluate
from twoviews.evaluation.compare import FIXED_BELOW, Budget, Comparison
from twoviews.jobs.arms import PIXEL_SIDE, Arms
from twoviews.jobs.length import Length
from twoviews.run import provenance


def protocol(
    room: Arms,
    comparison: Comparison,
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    length: Length,
    trained: Sequence[str],
    *,
    seconds: float,
) -> dict[str, Any]:
    """How the numbers came about."""
    o = room.options
    used = room.info.get("labels_trained_on")
    labels = f"with the labels of {used:,} images" if used else "without labels"
    words = {
        "train": room.data.train.spec,
        "test": room.data.test.spec,
        "validation": room.data.val_origin,
        "pool_overlap": room.data.overlap,
        "n_train_available": len(room.data.train),
        "n_val": len(room.data.val),
        "n_test": len(room.data.test),
        "labels_per_class": list(budgets),
        "seeds": len(seeds),
        "subsets": "stratified, seeded, nested over budgets, the same for all arms; one seed at all labels",
        "pretraining": f"run once, {labels}; only the label subsets and the classifiers are reseeded",
        "features": "h, the encoder's output, of one clean view; never the projection z",
        "knn": f"cosine, {o.knn_k} neighbours or all if fewer, weights exp(similarity / {o.knn_temperature:g})",
        "linear": "multinomial logistic regression by L-BFGS on standardised features; mean loss + strength x squared "
        "weights, intercept free, strength = penalty / labels",
        "trained": _training(o, length, trained) if trained else "not run",
        "batchnorm": "statistics re-estimated on 512 clean training samples without labels, in both trained arms alike",
        "floors": f"random-linear: the same network with random weights; pixels: the clean view at "
        f"{min(PIXEL_SIDE, room.clean.image_size)} px",
        "selection": f"one setting an arm, on validation at the reference budget; below {FIXED_BELOW} labels a class "
        "fixed beforehand (n_val = 0)"
        if len(room.data.val)
        else "nothing was selected, as there is no validation: settings were fixed beforehand (n_val = 0)",
        "settings": comparison.chosen,
        "test_reads": "each arm's once, after its setting was chosen",
        "metrics": "macro averages over classes; scikit-learn's definitions",
        "encoder_hash": room.encoder_hash,
        "frozen": "a hash over weights and buffers was equal before and after the frozen arms",
        "data_fingerprints": {n: c.fingerprint for n, c in room._parts().items()},
        "seconds": round(seconds, 1),
        "command": provenance()["command"],
    }
    if "linear-adam" in comparison.chosen:
        words["linear-adam"] = (
            f"softmax regression with Adam on the features as they are: {o.linear_epochs} passes in batches of "
            f"{o.linear_batch}, rate {o.linear_lr:g}, eps {o.eps:g}, Glorot's start, no penalty"
        )
    if trained and len(room.data.val):
        words["curves"] = (
            "validation accuracy on the way: at the largest budget, first seed, BatchNorm's statistics re-estimated "
            "for each point as at the end; an epoch is a pass over the labelled subset"
        )
    return words


def _training(o: Evaluate, length: Length, trained: Sequence[str]) -> str:
    """How the trained arms were trained, in words."""
    name = {"adamw": "AdamW", "adam": "Adam"}[o.optimizer]
    usual = Evaluate()
    eps = f" with eps {o.eps:g}" if o.eps != usual.eps else ""
    decay = f", weight decay {o.weight_decay:g}" if o.weight_decay != usual.weight_decay else ""
    rate = {"cosine": "cosine", "constant": "a constant rate"}[o.schedule]
    head = {
        "probe": "fine-tuning starts from the linear probe",
        "zeros": "the linear layer starts at zero",
        "glorot": "the linear layer starts with Glorot's draws",
    }[o.head]
    if o.finetune_from == "head":
        head += "; fine-tuning keeps the first layer of the projection head below it"
    return (
        f"{' and '.join(trained)}: {length} {'in batches of' if length.passes else 'of'} {o.batch_size} samples, "
        f"{name}{eps}{decay}, {'warm-up and ' if o.warmup else ''}{rate}, views '{o.policy}', last update; "
        f"the encoder's rate is {o.encoder_lr_ratio:g} of the head's in fine-tuning, 1 in the baseline; {head}"
    )
