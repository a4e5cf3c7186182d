"""What a comparison leaves for use: the best classifier, its predictions on test, and pictures for the report."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any

import numpy.typing as npt

from twoviews import distributed
from twoviews.errors import UsageError
from twoviews.evaluation.calibration import fit_temperature
from twoviews.evaluation.certainty import Certainty
from twoviews.evaluation.compare import PRETRAINED_ARMS, Arm, Budget, Comparison, unpack
from twoviews.evaluation.features import Embeddings
from twoviews.evaluation.finetune import Classifier, WithHead, class_logits
from twoviews.evaluation.gallery import build_gallery
from twoviews.evaluation.metrics import classification_metrics, confusion, per_class
from twoviews.evaluation.probe import LinearProbe
from twoviews.evaluation.verdict import primary_arm
from twoviews.jobs.classifying.classifier import save_classifier
from twoviews.jobs.comparing.arms import Arms
from twoviews.jobs.vectors.online import batches
from twoviews.run import Run, read_json, write_json, write_rows


def ship_classifier(
    room: Arms, comparison: Comparison, budgets: Sequence[Budget], arms: Mapping[str, Arm]
) -> dict[str, Any] | None:
    """Write the best model of the pretrained arms, and give its metrics; None where a student keeps its own.

    Best on validation; without validation, that of the verdict's arm at the largest budget it reached. A model that was
    fitted before an interruption is fitted again.
    """
    if _is_distilled(room.run):
        room.narrator.say(f"{room.run.classifier} stays as distillation trained it: an evaluation writes none over it")
        return None
    found = [key for key in comparison.shippable if key[0] in PRETRAINED_ARMS]
    best = max(found, key=lambda key: comparison.val_scores.get(key, 0.0), default=None)
    if not len(room.data.val):
        named = room.options.primary
        primary = named if any(key[0] == named for key in found) else primary_arm(comparison, budgets)
        best = max((key for key in found if key[0] == primary), key=lambda key: budgets.index(key[1]), default=None)
    if best is None:
        if room.run.classifier.exists():
            room.narrator.say(f"these arms fit no classifier: {room.run.classifier} stays, of an earlier evaluation")
        return None
    key = best
    arm, budget, seed = key
    accuracy = comparison.val_scores.get(key)
    validated = {"val_accuracy": None if accuracy is None else round(accuracy, 4)}
    if not any(distributed.exchange(key in comparison.models)) and distributed.is_main():
        again = unpack(comparison.fit(arms[arm], budget, seed, keep_model=True)["predicted"])
        if differing := int((again != comparison.predictions[key]).sum()):
            room.narrator.warn(f"the classifier, fitted again, answers otherwise on {differing} test items")
    distributed.barrier()
    model = comparison.models.get(key)
    if model is not None:  # in the one process that fitted it
        save_classifier(
            room.run.classifier,
            probe=model if isinstance(model, LinearProbe) else None,
            classifier=model if isinstance(model, Classifier) else None,
            encoder=room.run.encoder,
            head=room.run.head if isinstance(model, Classifier) and isinstance(model.encoder, WithHead) else None,
            classes=room.data.split.classes,
            facts={
                **{"arm": arm, "labels_per_class": budget, "seed": seed, **validated},
                # What it was fitted on, also where a later evaluation replaces the results.
                **{"train": room.data.train.spec, "test": room.data.test.spec},
            },
            certainty=_certainty(room, model),
        )
    distributed.barrier()
    predicted = comparison.predictions[key]
    truth, classes = room.data.split.test, room.data.split.classes
    return {
        "arm": arm,
        "labels_per_class": budget,
        "seed": seed,
        **validated,
        **{n: round(v, 4) for n, v in classification_metrics(truth, predicted, classes=len(classes)).items()},
        "per_class": per_class(truth, predicted, classes=list(classes)),
        "confusion": confusion(truth, predicted, classes=len(classes)).tolist(),
    }


def _certainty(room: Arms, model: LinearProbe | Classifier) -> Certainty | None:
    """What the validation items say of the model's probabilities; None without any."""
    labels = room.data.split.val
    if not len(labels):
        return None
    if isinstance(model, LinearProbe):
        scores: npt.NDArray[Any] = model.scores(room.features["val"].vectors)
    else:
        inputs = batches(room.data.val, room.ground.clean, compute=room.compute)
        scores = class_logits(model, inputs, compute=room.compute)
    # As many digits as are saved: the curve is that of the temperature which stands beside it.
    return Certainty.measured(scores, labels, temperature=round(fit_temperature(scores, labels), 6))


def _is_distilled(run: Run) -> bool:
    """Whether the run's classifier is a student; one that cannot be read is not worth keeping."""
    with suppress(UsageError):
        return bool(read_json(run.classifier / "config.json").get("arm") == "distillation")
    return False


def write_pictures(room: Arms, comparison: Comparison, classifier: dict[str, Any] | None) -> None:
    """The test items with what the classifier says of them, where there is one, and the gallery of the report."""
    embedded: Embeddings = room.features["test"]
    names, predicted = room.data.split.classes, None
    if classifier is not None:
        predicted = comparison.predictions[classifier["arm"], classifier["labels_per_class"], classifier["seed"]]
    said = [""] * len(room.data.test) if predicted is None else [names[p] for p in predicted]
    groups = room.data.test.groups
    columns = ["id", "label", "predicted", *(("group",) if groups is not None else ())]
    write_rows(
        room.run.evaluation / "predictions.csv",
        (
            dict(zip(columns, (i, names[t], p, group or ""), strict=False))
            for i, t, p, group in zip(
                room.data.test.ids, room.data.split.test, said, groups or repeat(""), strict=groups is not None
            )
        ),
        columns=columns,
    )
    content, sprite = build_gallery(room.data.test.values, embedded, predicted, seed=0)
    write_json(room.run.evaluation / "gallery.json", content)
    sprite.save(room.run.evaluation / "thumbnails.png")
