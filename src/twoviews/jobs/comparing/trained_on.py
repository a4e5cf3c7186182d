"""What a run was trained on, read again to hold test against it: images and groups, as far as they are still there."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twoviews import distributed
from twoviews.config import make_recipe
from twoviews.data.corpus import Corpus, read_csv
from twoviews.data.source import Spec, is_grouped, open_source
from twoviews.errors import TwoviewsError
from twoviews.jobs.comparing.copies import Seen
from twoviews.jobs.decide import storage_of
from twoviews.jobs.parts import TRAIN, read_parts
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.run import Run

POOL_LIMIT = 50_000
"""Images of a source above which near duplicates of test are not looked for: decoding and prints would take minutes."""


def pool_of(
    run: Run, info: dict[str, Any], read: Sequence[Seen], *, download: bool, narrator: Narrator
) -> tuple[Seen | None, str]:
    """The pool as it was trained on, or why it is not there."""
    stored = info["data"]
    for seen in read:
        if seen.corpus.fingerprint == stored["fingerprint"]:
            return seen, ""
    if stored["count"] > POOL_LIMIT:
        return None, f"the unlabelled images are more than {POOL_LIMIT:,}"
    config = make_recipe(run.settings(), origin=str(run.config))
    source, exclude = config.data.source, config.data.exclude
    if source is None:
        return None, "the unlabelled images were handed over in Python"
    narrator.say("reading the unlabelled images again, to find near duplicates of test")
    pool = _read_alike(
        lambda: load_shared(source, storage_of(config), exclude=exclude, download=download, narrator=narrator)
    )
    if pool is None:
        return None, "the unlabelled images cannot be read again"
    if pool.fingerprint != stored["fingerprint"]:
        return None, "the unlabelled images have changed since"
    return Seen(pool), ""


def labelled_of(run: Run, info: dict[str, Any], *, download: bool, narrator: Narrator) -> tuple[Seen | None, str]:
    """The labelled images as they were trained on beside the pool, or why they are not there."""
    config = make_recipe(run.settings(), origin=str(run.config))
    spec = (info.get("labelled") or {}).get("spec")
    if spec is None:
        return None, "they were handed over in Python"
    # Of labelled images that were taken out of the pool, all of the pool is read.
    if (info["data"]["count"] if spec == config.data.source else info["labels_trained_on"]) > POOL_LIMIT:
        return None, f"they are among more than {POOL_LIMIT:,} images"
    narrator.say("reading the labelled images again, to find near duplicates of test")
    storage = storage_of(config)
    train = _read_alike(lambda: read_parts(run, storage=storage, download=download, narrator=narrator)[TRAIN])
    return (Seen(train), "") if train is not None else (None, "they cannot be read again as they were")


def _read_alike(read: Callable[[], Corpus]) -> Corpus | None:
    """What all processes read alike; None where one cannot, so that they go on alike."""
    corpus = None
    with suppress(TwoviewsError), distributed.one_before_others(), distributed.alone():
        # Alone: one that fails would leave the others waiting for it in here.
        corpus = read()
    first, *others = distributed.exchange(None if corpus is None else corpus.fingerprint)
    return corpus if all(other == first for other in others) else None


def groups_of_pool(run: Run, *, download: bool) -> set[str]:
    """The groups of the unlabelled images, as far as their source can still be opened."""
    config = make_recipe(run.settings(), origin=str(run.config))
    if config.data.source is None or not run.manifest.is_file():
        return set()
    return _groups_of(config.data.source, {row["id"] for row in read_csv(run.manifest)}, None, download=download)


def groups_of_labelled(run: Run, info: dict[str, Any], *, download: bool) -> set[str]:
    """The groups of the images that a run was trained on with labels, as far as their source can still be opened."""
    facts = info.get("labelled") or {}
    if facts.get("spec") is None or not run.labelled.is_file():
        return set()
    ids = {row["id"] for row in read_csv(run.labelled) if row["part"] == TRAIN}
    return _groups_of(facts["spec"], ids, facts.get("labels"), download=download)


def _groups_of(spec: Spec, ids: set[str], labels: str | Path | None, *, download: bool) -> set[str]:
    """The groups of some items of a source; nothing is decoded."""
    try:
        source = open_source(spec, labels=labels, download=download)
        if not is_grouped(source):
            return set()
        return {group for i, group in enumerate(source.groups) if group is not None and source[i].id in ids}
    except TwoviewsError:
        return set()
