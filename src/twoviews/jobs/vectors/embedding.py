"""Embedding into a folder: resumed after a kill, only what is new or changed, shared by processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.data.assemble import Assembly, Form, Storage, choose_form
from twoviews.data.corpus import Rejected
from twoviews.data.decoding.decode import Header
from twoviews.data.source import Item, Source, Spec, is_stored, open_source
from twoviews.errors import DataError
from twoviews.evaluation.features import Embeddings
from twoviews.jobs.vectors.embedded import Known, find_unchanged
from twoviews.jobs.vectors.making import Maker
from twoviews.jobs.vectors.opened import LOOKED_AT, Opened, Preprocessing, open_encoder
from twoviews.jobs.vectors.outfolder import OutFolder
from twoviews.narrate import Narrator
from twoviews.run import Run

TOLD_FROM = 32
"""Images below which a speed says nothing."""
LIMITED = 0.8
"""Part of the encoder's own speed below which something else is the bottleneck."""


@dataclass(frozen=True)
class Embedded:
    """What embedding into a folder came to.

    embeddings  of all items; the vectors are memory-mapped where they lie in an .npy file
    kept        vectors that were there before, of files that have not changed
    resumed     vectors that an interrupted call had made
    made        vectors made now, `changed` of them for items that had another one
    dropped     items that had a vector before, and are gone or cannot be read any more
    images_per_second, encoder_images_per_second   reached while making, and by the encoder alone; None if none was made
    """

    embeddings: Embeddings
    kept: int
    resumed: int
    made: int
    changed: int
    dropped: int
    rejected: tuple[Rejected, ...]
    images_per_second: float | None
    encoder_images_per_second: float | None


def embed_into(
    run: Run | str | Path,
    data: Spec,
    *,
    out: str | Path,
    file_format: str = "npy",
    labels: str | Path | None = None,
    encoder: nn.Module | None = None,
    like: Preprocessing | None = None,
    overwrite: bool = False,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Embedded:
    """`h` of every readable item of `data`, in a folder; what is there of the same encoder and files is kept.

    `run`, `labels`, `encoder`, `download`: as for `embed`. `file_format`: `npy` (vectors.npy and index.csv) or
    `parquet`. `like`: an input view to take over, where the encoder leaves it open. Interrupted, the same call goes on
    where it was. `overwrite` makes all vectors anew.

    The vectors are those of embedding all of `data` at once: where images of other sizes change how images are stored
    for the encoder, all are embedded again.

    Errors: RefusedError for a folder that holds anything else, and, without `overwrite`, embeddings of another encoder
    or input view, or of none of these items; DataError for no or hardly any readable image; ResourceError for a full
    disk.

    >>> embed_into("runs/a", "photos/", out="vectors/").made             # doctest: +SKIP
    1204
    """
    distributed.join()
    narrator = narrator or Narrator()
    folder = OutFolder(out, file_format=file_format, overwrite=overwrite)
    source = open_source(data, labels=labels, download=download)
    ids = _ids_of(source)
    with folder.claimed():
        view = like or folder.view_of(run)
        opened = open_encoder(run, source=source, like=view, module=encoder, download=download, narrator=narrator)
        opened, form = _settled(opened, folder, source, narrator=narrator)
        folder.check(opened.fingerprint, ids)
        compute = opened.compute(narrator=narrator)
        maker = Maker(source, opened, compute.place(opened.encoder).eval(), compute)
        while True:
            folder.begin(opened, form)
            known = folder.known(form)
            found, stamps = find_unchanged(source, ids, known, narrator=narrator)
            order = source.storage_order if is_stored(source) else np.arange(len(ids))
            todo = order[found[order] < 0]
            distributed.require_equal([len(todo), int(todo.sum())], "list of what is to be embedded")
            folder.need(len(ids), more=len(todo), dimensions=maker.dimensions)
            if len(todo) < len(ids):
                narrator.say(f"{len(ids) - len(todo):,} of {len(ids):,} are embedded already")
            with folder.told_when_full(), _told_what_stays(len(ids), folder, narrator):
                maker.make(todo, form, folder.parts, narrator=narrator)
            distributed.barrier()  # every part is there
            known = folder.known(form)
            chosen = _everywhere(known, ids)
            wanted = _form_of(known, chosen, form, opened.preprocessing.storage)
            if wanted == form:
                break
            narrator.say(
                f"images of these sizes are stored as {wanted.width} x {wanted.height}, not {form.width} x "
                f"{form.height}: all are embedded again"
            )
            distributed.barrier()
            form = wanted
        reasons = {at: known.reasons[place] for at, place in enumerate(chosen.tolist()) if place in known.reasons}
        rejected = tuple(Rejected(ids[at], reason) for at, reason in reasons.items())
        _check_rejected(rejected, source, narrator=narrator)
        rows = np.array([at for at in range(len(ids)) if at not in reasons], np.int64)
        names = [ids[at] for at in rows.tolist()]
        # Of files that were only touched, the times as they are now.
        stamps = np.where(found >= 0, stamps, known.table.stamps[chosen])
        if distributed.is_main():
            with folder.told_when_full():
                folder.write(
                    known,
                    chosen[rows],
                    ids=tuple(names),
                    labels=[source.labels[at] for at in rows.tolist()],
                    stamps=stamps[rows],
                    rejected=rejected,
                    opened=opened,
                    form=form,
                    spec=source.spec,
                )
                folder.finished()
        distributed.barrier()
        fresh = found[rows] < 0
        kept = ~fresh & (known.places[chosen[rows], 0] == 0)
        again = {name for name, new in zip(names, fresh.tolist(), strict=True) if new}
        reached = maker.rate(len(todo))
        embedded = Embedded(
            Embeddings.load(folder.out, mapped=True),
            kept=int(kept.sum()),
            resumed=int((~fresh & ~kept).sum()),
            made=int(fresh.sum()),
            changed=len(folder.before & again),
            dropped=len(folder.before.difference(names)),
            rejected=rejected,
            images_per_second=reached,
            encoder_images_per_second=maker.limit(reached),
        )
        _tell(embedded, compute, narrator=narrator)
        return embedded


@dataclass(frozen=True, eq=False)
class _Some:
    """Some items of a source."""

    whole: Source
    places: range

    @property
    def spec(self) -> str:
        return self.whole.spec

    @property
    def labels(self) -> tuple[str | None, ...]:
        return tuple(self.whole.labels[at] for at in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        return self.whole[self.places[index]]


def _settled(opened: Opened, folder: OutFolder, source: Source, *, narrator: Narrator) -> tuple[Opened, Form]:
    """The encoder with an intensity, and the form that images are probably stored in: by evenly spaced ones."""
    form = folder.form_of(opened)
    if form is not None:
        return opened, form
    storage = opened.preprocessing.storage
    some = _Some(source, range(0, len(source), -(-len(source) // LOOKED_AT)))
    facts = None
    if distributed.is_main():
        assembly = Assembly(some, storage=storage, narrator=narrator)
        form = assembly.look(budget=0)
        facts = [form.height, form.width, form.depth, str(assembly.intensity)]
        narrator.chose("stored images", f"{form.width} x {form.height} x {form.channels}", form.reason)
    height, width, depth, intensity = distributed.agreed(facts)
    if storage.intensity == "auto":
        preprocessing = replace(opened.preprocessing, storage=replace(storage, intensity=intensity))
        opened = replace(opened, preprocessing=preprocessing)
    return opened, Form(height, width, storage.channels or 3, depth, "")


def _form_of(known: Known, chosen: NDArray[np.int64], form: Form, storage: Storage) -> Form:
    """The form that decoding all of these images at once would give them."""
    sizes = np.unique(known.table.sizes[[place for place in chosen.tolist() if place not in known.reasons]], axis=0)
    if not len(sizes):
        return form
    headers = [Header(w, h, form.channels, "", "", depth=form.depth) for w, h in sizes.tolist()]
    return choose_form(headers, storage)


def _everywhere(known: Known, ids: tuple[str, ...]) -> NDArray[np.int64]:
    chosen = known.places_of(ids)
    if (chosen < 0).any():
        raise DataError(
            f"{int((chosen < 0).sum())} of {len(ids)} vectors that other processes made are not here: give an --out "
            "that all machines see"
        )
    return chosen


def _ids_of(source: Source) -> tuple[str, ...]:
    ids = tuple(source[at].id for at in range(len(source)))
    if not ids:
        raise DataError(f"{source.spec!r} holds no image")
    if len(set(ids)) < len(ids):
        raise DataError(f"{source.spec!r} gives {len(ids) - len(set(ids))} ids twice: ids must be unique")
    return ids


def _check_rejected(rejected: tuple[Rejected, ...], source: Source, *, narrator: Narrator) -> None:
    if not rejected:
        return
    first = f"{rejected[0].id!r}: {rejected[0].reason}"
    if 2 * len(rejected) > len(source):
        raise DataError(
            f"{len(rejected)} of {len(source)} images in {source.spec!r} cannot be used: {first}; remove or repair them"
        )
    narrator.warn(f"{len(rejected)} of {len(source)} images rejected (see rejected.csv), the first {first}")


@contextmanager
def _told_what_stays(count: int, folder: OutFolder, narrator: Narrator) -> Iterator[None]:
    try:
        yield
    except BaseException:
        narrator.say(f"not finished: what of the {count:,} is embedded stays, and the same command goes on from there")
        raise


def _tell(embedded: Embedded, compute: Compute, *, narrator: Narrator) -> None:
    reached, limit = embedded.images_per_second, embedded.encoder_images_per_second
    if not embedded.made:
        narrator.say("nothing was to be embedded")
    if reached is None or limit is None or embedded.made < TOLD_FROM:
        return
    processes = f" in {distributed.size()} processes" if distributed.size() > 1 else ""
    slow = "reading and decoding are" if reached < LIMITED * limit else "the encoder is"
    narrator.say(
        f"{reached:,.0f} images/s{processes}; the encoder alone reaches {limit:,.0f} images/s on "
        f"{compute.device.type}, {compute.precision}: {slow} the bottleneck"
    )
