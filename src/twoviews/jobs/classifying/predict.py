"""Images classified by the classifier that `evaluate` fitted, with calibrated probabilities."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from twoviews.compute import choose_compute_as
from twoviews.data.source import Spec
from twoviews.errors import UsageError
from twoviews.evaluation.certainty import Certainty, items_needed, top_two
from twoviews.evaluation.finetune import class_logits
from twoviews.jobs.classifying.classifier import load_certainty, load_classifier, why_uncalibrated
from twoviews.jobs.classifying.sorting import check_folder, image_files, sort_into
from twoviews.jobs.tables import Kind, check_table, write_table
from twoviews.jobs.vectors.embed import Preprocessing
from twoviews.jobs.vectors.online import batches
from twoviews.narrate import Narrator
from twoviews.run import Run

COLUMNS: dict[str, Kind] = {
    "id": "text",
    "label": "text",
    "probability": "number",
    "runner_up": "text",
    "runner_up_probability": "number",
    "unsure": "flag",
}
"""Of a table of predictions, in this order."""

CERTAINTY = 0.95


@dataclass(frozen=True)
class Prediction:
    """One item's most probable class and the next one, with calibrated probabilities.

    `unsure`: the probability is below the threshold; None where there is no threshold.
    """

    id: str
    label: str
    probability: float
    runner_up: str = ""
    runner_up_probability: float = 0.0
    unsure: bool | None = None


def predict(
    run: Run | str | Path,
    data: Spec,
    *,
    encoder: nn.Module | None = None,
    certainty: float | None = CERTAINTY,
    out: str | Path | None = None,
    sort: str | Path | None = None,
    copy: bool = False,
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> list[Prediction]:
    """Classify every readable item of `data`, in its order, with the classifier that `evaluate` chose on validation.

    Probabilities are calibrated by the temperature fitted on validation, where there was one. `certainty`: the share of
    sure answers that are to be right; answers below the threshold that reaches it on validation are `unsure`, and None
    asks for no threshold. `out`: a .csv, .json or .parquet file to write too. `sort`: a folder that gets a folder a
    class, and `unsure`, with links to the images, or with copies (`copy`). `overwrite`: replace that file, and what an
    earlier sorting put into that folder. `encoder`: for a run that trained your own module, that module.

    Raises `UsageError` when the run has no classifier, or one that was fitted to another encoder, and for data whose
    images are no files where they are to be sorted; `RefusedError` for an output that is there.

    >>> predict("runs/a", "photos/")[0]                                                     # doctest: +SKIP
    Prediction(id='0001.jpg', label='cat', probability=0.93, runner_up='fox', ...)
    """
    narrator = narrator or Narrator()
    run = _run_of(run)
    info = run.require_finished()
    if certainty is not None:
        items_needed(certainty)  # refuses what is no share
    table = None if out is None else check_table(out, overwrite=overwrite)
    classifier, classes = load_classifier(run, encoder=encoder)
    confidence = load_certainty(run)
    files = {} if sort is None else image_files(data, download=download)
    folder = None if sort is None else check_folder(sort, files.values(), overwrite=overwrite)
    preprocessing = Preprocessing.of(run.encoder)
    corpus = preprocessing.load(data, download=download, narrator=narrator)
    compute = choose_compute_as(precision=info["precision"], threads=info["threads"], narrator=narrator)
    compute.place(classifier)
    scores = class_logits(classifier, batches(corpus, preprocessing.views(), compute=compute), compute=compute)
    if confidence is None:
        marked = "" if certainty is None else ", and no answer is marked unsure"
        narrator.warn(f"probabilities are not calibrated (temperature 1){marked}: {why_uncalibrated(run)}")
        confidence, certainty = Certainty(1.0, ()), None
    else:
        narrator.say(f"temperature {confidence.temperature:.3g}, fitted on {confidence.items:,} validation items")
    predictions = answers(corpus.ids, scores, classes, confidence, certainty=certainty, narrator=narrator)
    if table is not None:
        write_table(table, [asdict(p) for p in predictions], columns=COLUMNS)
    if folder is not None:
        sort_into(folder, files, [(p.id, [None if p.unsure else p.label]) for p in predictions], copy=copy)
    return predictions


def answers(
    ids: Sequence[str],
    scores: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    classes: Sequence[str],
    confidence: Certainty,
    *,
    certainty: float | None,
    narrator: Narrator,
) -> list[Prediction]:
    """From logits (N, classes) to predictions; says which threshold was taken, or why none."""
    least = None if certainty is None else _threshold(confidence, certainty, narrator)
    probabilities = confidence.probabilities(scores)
    first, second = top_two(probabilities)
    alone = len(classes) < 2
    return [
        Prediction(
            item,
            classes[a],
            round(float(row[a]), 4),
            "" if alone else classes[b],
            0.0 if alone else round(float(row[b]), 4),
            None if least is None else bool(row[a] < least),
        )
        for item, row, a, b in zip(ids, probabilities, first, second, strict=True)
    ]


def _threshold(confidence: Certainty, certainty: float, narrator: Narrator) -> float | None:
    found = confidence.threshold(certainty)
    if found is None:
        narrator.warn(
            f"no answer is marked unsure: certainty {certainty:g} takes {items_needed(certainty)} held-out items or"
            f" more to choose a threshold, and there are {confidence.items}"
        )
        return None
    if found.probability == math.inf:
        narrator.warn(
            f"every answer is unsure: on the {confidence.items:,} held-out items no threshold makes the sure answers"
            f" right {certainty:.0%} of the time; give a lower --certainty"
        )
        return found.probability
    narrator.say(
        f"sure from probability {found.probability:.3f}: {found.right:,} of the {found.answered:,} held-out items that"
        f" reach it were right (of {confidence.items:,}; certainty {certainty:g})"
    )
    return found.probability


def _run_of(run: Run | str | Path) -> Run:
    if isinstance(run, str) and run.startswith("timm:"):
        raise UsageError(f"{run} has no classifier: give a run that was evaluated, or twoviews tag {run} --examples")
    return run if isinstance(run, Run) else Run(run)
