"""An encoder, with its classifier if asked for, taken to where twoviews is not installed."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from twoviews.data.assemble import Storage
from twoviews.data.decoding.decode import decode
from twoviews.data.decoding.intensity import Intensity
from twoviews.data.source import Spec, open_source
from twoviews.encoders import Encoder
from twoviews.encoders.folder import describe_encoder
from twoviews.errors import DataError, TwoviewsError, UsageError, unknown_name
from twoviews.evaluation.finetune import WithHead
from twoviews.export import hub, onnx_file, state_dict, timm_folder, torch_export
from twoviews.export.card import export_card, write_card
from twoviews.export.check import compare
from twoviews.export.program import Head
from twoviews.export.subject import Subject
from twoviews.jobs.classifying.classifier import load_certainty, load_classifier
from twoviews.jobs.newfolder import check_new, filled
from twoviews.jobs.vectors.opened import Opened, open_encoder
from twoviews.narrate import Narrator
from twoviews.run import Run, provenance, write_json

FORMATS: dict[str, ModuleType] = {
    "timm": timm_folder,
    "state-dict": state_dict,
    "torch-export": torch_export,
    "onnx": onnx_file,
}
"""What a format is written by: a module with `accept`, `write` and `reopen`."""

PICTURES = 16
"""Real pictures, evenly spaced, on which what was written is compared with torch."""


def export_encoder(
    run: Run | str | Path,
    *,
    format: str,
    out: str | Path,
    classifier: bool = False,
    images: Spec | None = None,
    push: str | None = None,
    encoder: nn.Module | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> dict[str, Any]:
    """Write an encoder into the new folder `out`, check it on real pictures, and say what came of it.

    `run`: a run directory, `timm:NAME` or a folder of an encoder, see `open_encoder`. `format`: `timm`, a folder that
    timm loads; `state-dict`, safetensors and how to build the network; `torch-export` and `onnx`, programs from uint8
    pictures to vectors, preprocessing inside. `classifier`: with the one that `evaluate` fitted: logits, and calibrated
    probabilities where validation images were held out; if it was fine-tuned, the encoder is the fine-tuned one.
    `images`: what the result is checked on, by default what the run was trained on; pictures made up where that is not
    to be had. `push`: USER/NAME on the Hugging Face Hub, which is reached then only. `encoder`: for a run that trained
    your own module, that module.

    Gives `out`, `format`, `files`, `outputs`, `check` (pictures, largest difference from torch by output), `classes`,
    `pushed`. All or nothing is written. Errors: UsageError for an unknown format or one that cannot take this network,
    RefusedError for a folder that is not empty and for a push without token, DataError for missing weights or pictures.

    >>> export_encoder("runs/a", format="onnx", out="taken/")["check"]["largest_difference"]        # doctest: +SKIP
    {'vectors': 1.2e-06}
    """
    narrator = narrator or Narrator()
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    out = Path(out)
    check_new(out)
    if push is not None:
        hub.check_push(push)
    opened = open_encoder(run, module=encoder, download=download, narrator=narrator)
    subject = _subject(opened, classifier=classifier, module=encoder, narrator=narrator)
    writer = FORMATS[format]
    writer.accept(subject)
    pictures, on = _pictures(opened, subject, images=images, download=download, narrator=narrator)
    with filled(out) as staged:
        narrator.say(f"writing {subject.name} as {format}")
        written = writer.write(subject, staged)
        checked = compare(subject, writer.reopen(subject, staged), pictures, on=on)
        narrator.say(checked.sentence())
        made = provenance()
        licence = "" if opened.run is not None else _licence_of(subject.encoder)
        text = export_card(subject, written, check=checked, command=made["command"], run=opened.run, licence=licence)
        write_card(staged, text)
        write_json(staged / "check.json", {"format": format, **checked.facts()})
    address = None
    if push is not None:
        narrator.say(f"pushing {out} to {push}; a new repository is private until you make it public")
        address = hub.push(out, push)
    return {
        "out": str(out),
        "format": format,
        "files": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
        "outputs": subject.outputs(),
        "classes": list(subject.head.classes) if subject.head is not None else None,
        "check": checked.facts(),
        "pushed": address,
    }


def _subject(opened: Opened, *, classifier: bool, module: nn.Module | None, narrator: Narrator) -> Subject:
    p = opened.preprocessing
    taken, head, items = opened.encoder, None, 0
    if classifier:
        if opened.run is None:
            raise UsageError(f"{opened.name} is no run, so there is no classifier: leave --classifier out")
        fitted, classes = load_classifier(opened.run, encoder=module)
        certainty = load_certainty(opened.run)
        taken = fitted.encoder
        layer: nn.Module | None = None
        if isinstance(taken, WithHead):
            layer = taken.get_submodule("layer")
            taken = taken.encoder
        items = certainty.items if certainty is not None else 0
        head = Head(
            fitted.head.weight,
            fitted.head.bias,
            classes=classes,
            temperature=certainty.temperature if certainty is not None else 1.0,
            layer=layer,
        ).eval()
        if not items:
            narrator.warn("the classifier's probabilities are not calibrated: it was fitted without validation images")
    if not isinstance(taken, Encoder):
        raise UsageError(
            f"{opened.name} holds {type(taken).__name__}, which cannot be exported: give a run or a folder"
        )
    channels = int(taken.architecture["channels"])
    mean, std = p.views().normalization(channels)
    storage: Storage = p.storage
    stored_side = storage.cache_side or p.image_size
    config = describe_encoder(
        taken,
        preprocessing={"mean": list(mean), "std": list(std), "interpolation": "bilinear", "crop_pct": 1.0},
        extra={
            "cache_side": stored_side,
            "intensity": storage.intensity if storage.intensity != "auto" else "uint8",
            "background": storage.background,
            "pages": storage.pages,
        },
    )
    return Subject(
        taken,
        config,
        stored_side=stored_side,
        intensity=str(config["twoviews"]["intensity"]),
        mean=mean,
        std=std,
        head=head,
        calibrated=items,
    )


def _pictures(
    opened: Opened, subject: Subject, *, images: Spec | None, download: bool, narrator: Narrator
) -> tuple[Sequence[NDArray[np.uint8]], str]:
    """Real pictures as a user of the export would hold them, (H, W, C) uint8, and what they are in words."""
    spec = images
    if spec is None and opened.run is not None:
        spec = opened.run.settings().get("data", {}).get("source")
    found: list[NDArray[np.uint8]] = []
    reason = "no --images were given"
    if spec is not None:
        try:
            found = _decoded(spec, opened, subject, download=download)
            reason = f"none of {spec} could be read"
        except TwoviewsError as error:
            reason = str(error)
    if found:
        return found, "real pictures"
    if images is not None:
        raise DataError(f"nothing to check the export on: {reason}")
    narrator.warn(f"the export is checked on made-up pictures ({reason}): give --images DATA for real ones")
    rng = np.random.default_rng(0)
    side = subject.image_size
    shapes = [(side + 7 * i, 2 * side - 5 * i, subject.channels) for i in range(4)]
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes], "made-up pictures (noise)"


def _decoded(spec: Spec, opened: Opened, subject: Subject, *, download: bool) -> list[NDArray[np.uint8]]:
    source, storage = open_source(spec, download=download), opened.preprocessing.storage
    found = []
    for index in np.unique(np.linspace(0, len(source) - 1, PICTURES).round().astype(np.int64)):
        try:
            found.append(
                decode(
                    source[int(index)].read(),
                    channels=subject.channels,
                    intensity=Intensity.parse(subject.intensity),
                    background=storage.background,
                    pages=storage.pages,
                )
            )
        except Exception:  # foreign code; one picture that cannot be read is not what is asked about here
            continue
    return found


def _licence_of(encoder: Encoder) -> str:
    config = getattr(encoder.body, "pretrained_cfg", None) or {}
    return str(config.get("license") or "")
