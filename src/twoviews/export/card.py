"""The model card of what was exported: data, protocol, results with intervals, check, limits, licence."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from twoviews.encoders.card import encoder_card
from twoviews.errors import UsageError
from twoviews.evaluation.statistics import paired_interval
from twoviews.export.check import Check
from twoviews.export.subject import Subject, Written
from twoviews.run import Run, read_json

NOT_STATED = "Not stated."


def export_card(
    subject: Subject, written: Written, *, check: Check, command: Sequence[str], run: Run | None, licence: str
) -> str:
    """Markdown. `command` made the folder; `licence`: of public weights, as their library states it, or ""."""
    card = encoder_card(subject.config)
    trained = run is not None
    head = subject.head
    title = f"{subject.name}{'' if trained else ', public weights'}, exported by twoviews"
    side, channels = subject.image_size, subject.channels
    seen = f"Seen inside: the central square at {side} x {side} px, normalised by mean {list(subject.mean)}, std "
    bullets = list(card.bullets)
    if written.takes_pictures:
        bullets[0] = f"Input: uint8 (batch, height, width, {channels}). {seen}{list(subject.std)}"
    if head is not None:
        names = ", ".join(head.classes[:20]) + (f" and {len(head.classes) - 20} more" if len(head.classes) > 20 else "")
        bullets.append(f"Classes ({len(head.classes)}): {names}")
        bullets.append(_words_of_calibration(subject))
    info, results = _known(run)
    sections = [
        ("Data", _data(info)),
        ("Protocol", _protocol(info, results)),
        ("Results", _results(results)),
        ("Check", check.sentence()),
        ("Intended use", _use(subject, info)),
        ("Limits", _limits(subject, info)),
        ("Licence", _licence(licence)),
        ("Made by", f"```\n{shown_command(command)}\n```" + _made(info)),
    ]
    return replace(
        card,
        title=title,
        library=written.library,
        task="image-feature-extraction" if head is None else "image-classification",
        bullets=bullets,
        note=written.note,
        code=written.code,
        comments=("license: fill in, as apache-2.0; see the section Licence",),
        sections=sections,
    ).render()


def shown_command(words: Sequence[str]) -> str:
    """A command without the folders of the machine that it ran on.

    >>> shown_command(["twoviews", "pretrain", "/data/of/ann/photos", "--epochs", "3"])
    'twoviews pretrain .../photos --epochs 3'
    """
    return " ".join(_shown(word) for word in words)


def _shown(text: str) -> str:
    """An argument or the spec of data, as `photos/`, `NAME@FOLDER`, `KEY=FILE` or a JSON list of these."""
    if text.startswith("["):
        with suppress(ValueError):
            return ", ".join(_shown(str(part)) for part in json.loads(text))
    return re.sub(r"(^|[=@:])([/~].*)", lambda found: f"{found[1]}.../{PurePath(found[2]).name}", text)


def _known(run: Run | None) -> tuple[dict[str, Any], dict[str, Any]]:
    if run is None:
        return {}, {}
    results: dict[str, Any] = {}
    if run.results.is_file():
        try:
            results = read_json(run.results)
        except UsageError:
            results = {}
    return run.info(), results


def _data(info: Mapping[str, Any]) -> str:
    data = info.get("data")
    if not data:
        return "The weights were not trained by twoviews; see where they come from."
    spec = data.get("spec")
    named = ", ".join(_shown(str(part)) for part in (spec if isinstance(spec, list) else [spec or "arrays"]))
    lines = [
        f"- Pretrained on {data['count']:,} images without labels: `{named}`",
        f"- Fingerprint (sha256 over decoded values, sizes and ids): `{data['fingerprint']}`",
        f"- Stored at {data.get('width')} x {data.get('height')} px, {data.get('channels')} channels; "
        f"{data.get('rejected', 0)} could not be read",
        "- What the images show, where they come from and who is in them: *to be filled in*",
    ]
    return "\n".join(lines)


def _protocol(info: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    if not info:
        return NOT_STATED
    steps = f"{info['steps']:,} steps of {info['batch_size']}" if "steps" in info and "batch_size" in info else ""
    line = (
        f"Pretraining: {steps}, {info.get('epochs', 0):g} epochs, seed {info.get('seed')}, {info.get('precision')} on "
    )
    line += f"{info.get('gpu') or info.get('device')} ({info.get('cpu') or 'unknown processor'})."
    paragraph = results.get("protocol", {}).get("paragraph")
    return line + (f"\n\n{paragraph}" if paragraph else "")


def _results(results: Mapping[str, Any]) -> str:
    """Each arm at each budget, with Student's interval over its seeds, and the verdict."""
    rows = results.get("rows") or []
    if not rows:
        return "Not evaluated: `twoviews evaluate RUN --train DATA --test DATA`, then export again."
    metric = results.get("verdict", {}).get("metric") or "accuracy"
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.get(metric) is not None:
            values.setdefault((row["arm"], str(row["labels_per_class"])), []).append(float(row[metric]))
    n_test = max(int(row.get("n_test", 0)) for row in rows)
    lines = [
        f"Test {metric.replace('_', ' ')} in %, {n_test:,} images, mean and 95 % interval over label subsets "
        "(Student's t, which does not cover the luck of the test items or of pretraining, run once):",
        "",
        "| arm | labels a class | mean | 95 % interval | subsets |",
        "|---|---|---|---|---|",
    ]
    for (arm, budget), found in values.items():
        i = paired_interval(found)
        between = f"{100 * i.low:.1f} to {100 * i.high:.1f}" if len(found) > 1 else "one subset"
        lines.append(f"| {arm} | {budget} | {100 * i.mean:.1f} | {between} | {len(found)} |")
    sentence = results.get("verdict", {}).get("sentence")
    return "\n".join(lines) + (f"\n\n{sentence}" if sentence else "")


def _words_of_calibration(subject: Subject) -> str:
    assert subject.head is not None
    temperature = float(subject.head.temperature)
    if not subject.calibrated:
        return "Probabilities: the softmax of the logits, not calibrated (no validation images were held out)"
    return (
        f"Probabilities: the softmax of logits / {temperature:g}, a temperature fitted on {subject.calibrated:,} "
        "validation images"
    )


def _use(subject: Subject, info: Mapping[str, Any]) -> str:
    seen = "like those it was trained on" if info else "like those of its training"
    text = f"Vectors for search, grouping, near duplicates, and classifiers on few labels, of images {seen}."
    if subject.head is not None:
        text += " Its classifier answers with one of its classes whatever it is shown."
    return text + " Not made for identifying people, nor for decisions about people that nobody checks."


def _limits(subject: Subject, info: Mapping[str, Any]) -> str:
    side = subject.image_size
    lines = [
        f"- It sees the central square at {side} x {side} px: what is smaller in it, or outside of it, is lost.",
        "- Other cameras, scanners, colours or subjects than in its training give vectors that nobody has measured.",
        "- What the pool holds too little of, or one-sidedly, it tells apart worse; nothing was measured by groups of "
        "people.",
    ]
    if info.get("precision") == "bf16":
        lines.append(
            "- `twoviews embed` computes this run in bf16 and this export computes in float32: vectors agree to two or "
            "three digits and are not equal."
        )
    if info.get("collapse"):
        lines.append("- Training warned of a collapse: the vectors may hold little.")
    return "\n".join(lines)


def _licence(licence: str) -> str:
    stated = f"The weights that this began from are under: {licence}. " if licence else ""
    return (
        f"{stated}**To be filled in by whoever publishes this**, here and as `license:` in the first lines: twoviews "
        "cannot know what the images and the weights allow."
    )


def _made(info: Mapping[str, Any]) -> str:
    command = info.get("command")
    if not command:
        return ""
    versions = ", ".join(f"{name} {info[name]}" for name in ("twoviews", "torch", "timm") if info.get(name))
    return f"\nThe run was made by\n```\n{shown_command(command)}\n```\nwith {versions}."


def write_card(folder: Path, text: str) -> None:
    """README.md of a folder; names may hold bytes that are no text, and are shown as escapes."""
    (folder / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")
