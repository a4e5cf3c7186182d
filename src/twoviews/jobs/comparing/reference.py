"""References of a comparison: encoders that were not trained here, seen with the eyes that they were trained with."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from twoviews import distributed
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus
from twoviews.data.source import Spec
from twoviews.encoders import Encoder, load_encoder
from twoviews.encoders.public import Absent, Repeated, TimmWeights
from twoviews.errors import DataError, UsageError
from twoviews.jobs.comparing.copies import Seen
from twoviews.jobs.comparing.overlap import apart_from_training
from twoviews.jobs.reading import load_shared
from twoviews.jobs.vectors.named import asked_size, find_weights
from twoviews.jobs.vectors.opened import Preprocessing, known_encoder, load_at_size
from twoviews.narrate import Narrator
from twoviews.run import Run, read_json
from twoviews.training.checkpoint import sha256_file
from twoviews.views.policies import Views


@dataclass(frozen=True)
class Reference:
    """An encoder that was not trained here, and all that a comparison needs to use and to name it.

    name           as it was asked for, a folder's with a slash; arms `reference-linear:NAME`, `reference-finetune:NAME`
    preprocessing  how it wants images: size, storage of the decoded data, mean and std for views
    architecture   the network's name, with the tag of public weights
    origin, licence, input   in words
    parameters     how many numbers are learnt in it
    sha256         of the file of weights
    run            of another run, or of an encoder folder in one: what it was trained on may hold test items
    """

    name: str
    preprocessing: Preprocessing
    architecture: str
    origin: str
    licence: str
    input: str
    parameters: int
    sha256: str
    run: Run | None
    _module: nn.Module

    def module(self) -> nn.Module:
        """A fresh copy with `.num_features`, (B, C, S, S) -> (B, num_features), on the CPU in eval mode."""
        return copy.deepcopy(self._module)

    @property
    def views(self) -> Views:
        """The clean view: the central square, resized and normalised."""
        return self.preprocessing.views()

    @property
    def storage(self) -> Storage:
        """What labelled data is decoded at for it."""
        return self.preprocessing.storage

    def decode(
        self,
        parts: Mapping[str, Corpus],
        specs: Mapping[str, tuple[Spec, str | Path | None]],
        *,
        storage: Storage,
        download: bool = False,
        narrator: Narrator,
    ) -> dict[str, Corpus]:
        """The same items in the same order with the same labels, at the resolution that this reference wants.

        `parts`: corpora decoded as `storage` says; they are taken as they are where they hold what is wanted, of a run
        only as it stores images itself: by these pixels it is told what the run was trained on. `specs`: what each was
        read from, and the manifest that was joined to it by id. Raises `DataError` for an item that is not there any
        more, or that this reference's storage rejects.
        """
        decoded: dict[object, Corpus] = {}
        found = {}
        for name, part in parts.items():
            if not len(part) or self._suffices(part, storage):
                found[name] = part
                continue
            spec, labels = specs[name]
            key = (spec if isinstance(spec, str | Path) else id(spec), labels)
            if key not in decoded:
                decoded[key] = load_shared(spec, self.storage, labels=labels, download=download, narrator=narrator)
            found[name] = self._aligned(decoded[key], part, name=name)
        return found

    def seen(self, test: Corpus, *, download: bool = False, narrator: Narrator) -> str | Absent:
        """How much of test a run was trained on, in words; nothing to say of what is no run.

        `test` as `decode` gives it. Absent where labels of it were trained on, of near duplicates or of its groups.
        """
        if self.run is None:
            return ""
        reason, words, transductive = "", "", False
        try:
            apart = apart_from_training(
                self.run, Seen(_as_trained(test, self.run)), download=download, narrator=narrator
            )
        except DataError as error:
            reason = str(error)
        else:
            reason = f"there are {' and '.join(apart.excluded)}" if apart.excluded else ""
            words, transductive = apart.words, apart.transductive
        # Run directories may lie on disks of several machines; what one process must not measure, none does.
        told = distributed.exchange([reason, words, transductive])
        if reason := next((reason for reason, *_ in told if reason), ""):
            return Absent(reason)
        _, words, transductive = told[0]
        if transductive:
            narrator.warn(f"reference {self.name}: {words}")
        return str(words)

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader must know to repeat its use, as JSON."""
        p = self.preprocessing
        return {
            "name": self.name,
            "architecture": self.architecture,
            "origin": self.origin,
            "licence": self.licence,
            "parameters": self.parameters,
            "sha256": self.sha256,
            "image_size": p.image_size,
            "cache_side": p.storage.cache_side,
            "mean": list(p.mean),
            "std": list(p.std),
            "input": self.input,
        }

    def _suffices(self, part: Corpus, storage: Storage) -> bool:
        wanted = self.storage
        if self.run is not None:
            return storage == wanted
        if replace(storage, cache_side=wanted.cache_side) != wanted:
            return False
        height, width = part.values.shape[1:3]
        as_they_are = bool((part.sizes == (width, height)).all())
        return as_they_are or min(height, width) >= min(wanted.cache_side or 0, int(part.sizes.max()))

    def _aligned(self, corpus: Corpus, part: Corpus, *, name: str) -> Corpus:
        place = {item: index for index, item in enumerate(corpus.ids)}
        lacking = [item for item in part.ids if item not in place]
        if lacking:
            reasons = {item.id: item.reason for item in corpus.rejected}
            raise DataError(
                f"reference {self.name}: {len(lacking)} of {len(part)} items of {name} cannot be decoded as it wants "
                f"them ({lacking[0]}: {reasons.get(lacking[0], f'no longer in {corpus.spec}')}): leave it out"
            )
        same = corpus.select(np.array([place[item] for item in part.ids], np.int64))
        changed = np.flatnonzero((same.sizes != part.sizes).any(axis=1))
        if len(changed):
            raise DataError(f"{part.ids[changed[0]]} of {corpus.spec} has changed meanwhile: evaluate again")
        return replace(same, labels=part.labels, classes=part.classes, groups=part.groups)


def load_references(
    names: Sequence[str], *, storage: Storage, sizes: NDArray[np.int32], download: bool = False, narrator: Narrator
) -> tuple[list[Reference], list[str]]:
    """The references of these names, and what could not be measured and why, a sentence each.

    A name is one of timm's (public weights), with or without `timm:`; a folder that timm wrote, as a path or
    `local-dir:FOLDER`; `NETWORK=FILE.safetensors`; a run directory, or an encoder folder. `@PX` after it asks for an
    image size. A folder that has the name of a network is written `./resnet18`. `storage`: how the labelled data is
    decoded for the run. `sizes`: (N, 2), its originals' width and height. The network is used with `download` only.

    Only public weights that are not here leave a comparison without a reference; all else is an error. Errors:
    UsageError for unknown names and images of other channels, DataError for what is missing or broken, RefusedError for
    pickles.
    """
    references, absent = [], []
    for name in dict.fromkeys(names):
        plain, image_size = asked_size(name, what="reference")
        with distributed.one_before_others():
            found = find_weights(plain, download=download, what="reference")
        # Machines have caches of their own; what one of them lacks, none uses.
        reason = next(filter(None, distributed.exchange(found.reason if isinstance(found, Absent) else None)), None)
        if reason is not None or isinstance(found, Absent):
            absent.append(f"reference {name} was not measured: {reason}")
            narrator.warn(absent[-1])
            continue
        if isinstance(found, TimmWeights):
            reference = _from_timm(name, found, image_size, storage=storage, sizes=sizes)
        else:
            # A name without a slash is one of timm's, wherever it is read.
            reference = _from_folder(name if "/" in name else f"./{name}", found, image_size, storage=storage)
        # Where a run directory is there, it is read together.
        distributed.require_equal([reference.sha256, reference.run is not None], f"reference {name}")
        narrator.say(
            f"reference {name}: {reference.architecture}, {reference.parameters / 1e6:.1f} M parameters, "
            f"{reference.origin}, licence {reference.licence}; {reference.input}"
        )
        references.append(reference)
    return references, absent


def check_references(names: Sequence[str], *, download: bool = False, narrator: Narrator | None = None) -> None:
    """Look for references before anything costly, without loading them.

    Raises as `load_references` does for names that it cannot use; of public weights that are not here `narrator` warns.
    """
    for name in dict.fromkeys(names):
        plain, image_size = asked_size(name, what="reference")
        with distributed.one_before_others():
            found = find_weights(plain, download=download, what="reference")
        if isinstance(found, Path):
            known_encoder(found, image_size, name=name, what="reference")
        elif isinstance(found, Absent) and narrator is not None:
            narrator.warn(f"reference {name} will not be measured: {found.reason}")


def load_reference(
    name: str, *, storage: Storage, sizes: NDArray[np.int32], download: bool = False, narrator: Narrator | None = None
) -> Reference:
    """One reference, see `load_references`. Raises `DataError` also for public weights that are not here.

    >>> sizes = np.array([[96, 96]], np.int32)
    >>> dino = load_reference("vit_small_patch14_dinov2.lvd142m", storage=Storage(120, 3), sizes=sizes) # doctest: +SKIP
    >>> dino.preprocessing.image_size                                                                   # doctest: +SKIP
    112
    """
    found, absent = load_references(
        [name], storage=storage, sizes=sizes, download=download, narrator=narrator or Narrator()
    )
    if absent:
        raise DataError(absent[0])
    return found[0]


def _from_timm(
    name: str, weights: TimmWeights, image_size: int | None, *, storage: Storage, sizes: NDArray[np.int32]
) -> Reference:
    encoder, preprocessing, reason = load_at_size(weights, image_size, storage=storage, sizes=sizes)
    config: Mapping[str, Any] = encoder.body.pretrained_cfg  # type: ignore[assignment]
    published = weights.public or weights.folder is not None
    return _reference(
        name,
        encoder,
        preprocessing,
        channels=storage.channels,
        origin=(
            "public weights through timm"
            if weights.public
            else f"a folder that timm wrote, {weights.folder}"
            if weights.folder is not None
            else f"weights in {weights.file}, with the mean and std that timm states for this network"
        ),
        licence=str(config.get("license") or "not stated") if published else "not stated",
        size_reason=reason,
        file=weights.file,
        run=None,
    )


def _from_folder(name: str, folder: Path, image_size: int | None, *, storage: Storage) -> Reference:
    place, about, preprocessing = known_encoder(folder, image_size, name=name, what="reference")
    whole = (folder / "run.json").is_file()
    what = f"the run {folder}" if whole else f"the encoder folder {folder}"
    return _reference(
        name,
        load_encoder(place),
        preprocessing,
        channels=storage.channels,
        origin=f"{what}: {about.get('method', 'trained')} on {about.get('data', 'unknown data')}",
        licence="not stated",
        size_reason="its own",
        file=place / "model.safetensors",
        run=Run(folder) if whole else _run_around(place.resolve()),
    )


def _run_around(encoder: Path) -> Run | None:
    """The run that an encoder folder is of, where it lies in one; others write a run.json too."""
    run, facts = Run(encoder.parent), None
    with suppress(UsageError):  # not there, or no JSON
        facts = read_json(run.info_file)
    data = facts.get("data") if isinstance(facts, dict) else None
    return run if isinstance(data, dict) and "fingerprint" in data else None


def _as_trained(test: Corpus, run: Run) -> Corpus:
    """With the channels that the run stores: grey images, which `Repeated` takes, lie in a pool of colour as colour."""
    channels = run.info()["data"]["channels"]
    if test.values.shape[3] != 1 or channels != 3:
        return test
    return replace(test, values=np.repeat(test.values, channels, axis=3))


def _reference(
    name: str,
    encoder: Encoder,
    preprocessing: Preprocessing,
    *,
    channels: int | None,
    origin: str,
    licence: str,
    size_reason: str,
    file: Path,
    run: Run | None,
) -> Reference:
    module: nn.Module = encoder
    p, own = preprocessing, int(encoder.architecture["channels"])
    channels = channels or own
    words = f"sees the central square at {p.image_size} px ({size_reason})"
    if channels != own:
        if not {channels, own} <= {1, 3}:
            raise UsageError(
                f"reference {name!r} takes images of {own} channels, these have {channels}: leave it out, or give one "
                f"that was trained with {channels}"
            )
        if channels == 1:
            mean, std = p.views().normalization(own)
            module = Repeated(encoder, mean=mean, std=std)
            p = Preprocessing(p.image_size, replace(p.storage, channels=1), (0.0,), (1.0,))
            words += f", the grey channel repeated {own} times"
        else:
            words += ", colour turned into grey"
    return Reference(
        name=name,
        preprocessing=p,
        architecture=str(encoder.architecture["name"]),
        origin=origin,
        licence=licence,
        input=words,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        sha256=sha256_file(file),
        run=run,
        _module=module.eval(),
    )
