"""Where a run comes from and how far it is, in words."""

import shlex
from collections.abc import Mapping

from twoviews.report.parts import Info
from twoviews.report.reading import Record
from twoviews.report.words import duration, said, several


def next_steps(record: Record) -> list[tuple[str, str]]:
    """(sentence, command) for what this run still lacks."""
    run = shlex.quote(str(record.folder))
    steps = []
    info = record.info
    if info.status not in (None, "finished"):
        done = info.step if info.step is not None else max((metric.step for metric in record.metrics), default=0)
        of = f" of {info.steps:,}" if info.steps else ""
        steps.append(
            (
                f"Pretraining has not ended (status: {info.status}, step {done:,}{of}).",
                f"twoviews resume {run}",
            )
        )
    if record.results is None:
        sentence = "Not evaluated yet: a few labelled images tell what the encoder is worth."
        steps.append((sentence, f"twoviews evaluate {run} --train DATA --test DATA"))
    return steps


def facts_of(record: Record) -> list[str]:
    """The run in a few words: images, encoder, length, time, machine."""
    info, data = record.info, record.info.data or {}
    encoder = info.encoder or record.config.get("encoder")
    name = encoder.get("name") if isinstance(encoder, Mapping) else None
    count = data.get("count")
    facts = [
        f"{several(f'{count:,}', 'image')} without labels" if isinstance(count, int) else "",
        str(name or ""),
        several(f"{round(info.epochs, 1):,g}", "epoch") if info.epochs else "",
        f"{several(f'{info.steps:,}', 'step')} of {info.batch_size:,}" if info.steps and info.batch_size else "",
        duration(info.seconds) if info.seconds else "",
        f"{info.images_per_second:,.0f} images/s" if info.images_per_second else "",
    ]
    return [fact for fact in facts if fact]


def provenance(info: Info) -> list[tuple[str, str]]:
    """Versions, hardware, data: (name, text)."""
    data = info.data or {}
    git = info.git or {}
    commit = (
        f"{git.get('commit')}{' with uncommitted changes' if git.get('dirty') else ''}" if git.get("commit") else ""
    )
    count, channels = data.get("count"), data.get("channels")
    images = f"{count:,}" if isinstance(count, int) else ""
    if images and data.get("width"):
        colours = "greyscale" if channels == 1 else f"{said(channels)} channels"
        images += f", {said(data['width'])} × {said(data.get('height'))}, {colours}"
    left_out = [
        f"{data[how]:,} {how}" for how in ("rejected", "excluded") if isinstance(data.get(how), int) and data[how]
    ]
    images += "".join(f", {text}" for text in left_out)
    intensity = data.get("intensity")
    machine = ", ".join(said(v) for v in (info.cpu, info.gpu or info.device, info.platform) if v)
    pairs = (
        ("Made", said(info.created)),
        ("Data", said(data.get("spec"))),
        ("Images", images),
        ("Intensity", said(intensity) if intensity not in (None, "uint8") else ""),
        ("Data fingerprint", said(data.get("fingerprint"))),
        ("sha256 of the encoder", info.encoder_sha256 or ""),
        ("Seed", said(info.seed)),
        ("Batch", info.batch_in_words()),
        ("Hardware", machine),
        ("Threads, precision", ", ".join(said(v) for v in (info.threads, info.precision) if v is not None)),
        (
            "Versions",
            ", ".join(
                f"{name} {said(getattr(info, name))}"
                for name in ("twoviews", "python", "torch", "torchvision", "timm")
                if getattr(info, name)
            ),
        ),
        ("Git commit", commit),
    )
    return [(name, text) for name, text in pairs if text]
