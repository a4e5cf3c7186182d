"""What a user names as an encoder, ready to embed: a run, public weights of timm, a folder of timm or of twoviews."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from twoviews import distributed
from twoviews.compute import Compute, choose_compute_as
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus
from twoviews.data.source import Source, Spec
from twoviews.encoders import Encoder, encoder_folder, load_encoder, read_encoder_config
from twoviews.encoders.public import Absent, TimmWeights, choose_side, load_published, published_input
from twoviews.encoders.weights import refuse_pickle
from twoviews.errors import DataError, UsageError
from twoviews.evaluation.features import fingerprint_module
from twoviews.jobs.reading import load_shared
from twoviews.jobs.vectors.named import asked_size, find_weights
from twoviews.narrate import Narrator
from twoviews.run import Run, read_json
from twoviews.views.policies import POLICIES, Views

STORED = 1.25
"""Stored side over image size, as for a run's own encoder: what random crops enlarge."""

LOOKED_AT = 256
"""How many images, evenly spaced, tell at which size public weights see all of them."""


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder folder says of its input."""

    image_size: int
    storage: Storage
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(folder: Path) -> "Preprocessing":
        """Read `config.json` of an encoder folder. Raises DataError for one that does not say it all."""
        config = read_json(folder / "config.json")
        try:
            own, cfg = config["twoviews"], config["pretrained_cfg"]
            storage = Storage(
                own.get("cache_side", round(STORED * own["image_size"])),
                own["channels"],
                own.get("intensity", "uint8"),
                own.get("background", "white"),
                own.get("pages", "auto"),
            )
            return Preprocessing(own["image_size"], storage, tuple(cfg["mean"]), tuple(cfg["std"]))
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise DataError(
                f"{folder / 'config.json'} does not say how images are seen ({error!r}): save the encoder again"
            ) from error

    @staticmethod
    def from_facts(facts: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `facts`. Raises KeyError or TypeError for what it did not write."""
        try:
            storage = Storage(**facts["storage"])
            return Preprocessing(int(facts["image_size"]), storage, tuple(facts["mean"]), tuple(facts["std"]))
        except (AttributeError, ValueError, UsageError) as error:
            raise TypeError(f"no view of images: {error}") from error

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def views(self) -> Views:
        """The clean view: the central square, resized and normalised."""
        return Views(POLICIES["none"], image_size=self.image_size, mean=self.mean, std=self.std)

    def load(
        self, data: Spec, *, labels: str | Path | None = None, download: bool = False, narrator: Narrator
    ) -> Corpus:
        """Decode data as this encoder wants it."""
        return load_shared(data, self.storage, labels=labels, download=download, narrator=narrator)


@dataclass(frozen=True)
class Opened:
    """An encoder, whatever it was named by, and all that is needed to embed with it.

    name           as it was given
    encoder        (B, C, S, S) -> (B, num_features), on the CPU in eval mode
    preprocessing  how it wants images; its intensity is `auto` until images were measured, where nothing states one
    precision      `bf16` or `fp32`; of weights that were not trained here fp32, so that every machine gives the same
    threads        those of the training, or None
    run            of the run that it belongs to
    """

    name: str
    encoder: nn.Module
    preprocessing: Preprocessing
    precision: str
    threads: int | None
    run: Run | None = None

    @property
    def kept(self) -> Path | None:
        """Where its embeddings may be kept, or None."""
        return self.run.embeddings if self.run is not None else None

    def compute(self, *, narrator: Narrator) -> Compute:
        """The device that torch finds, with this precision and these threads."""
        return choose_compute_as(precision=self.precision, threads=self.threads, narrator=narrator)

    def seeing(self, corpus: Corpus) -> "Opened":
        """With the intensity that the images of `corpus` came to, where that was open."""
        if self.preprocessing.storage.intensity != "auto":
            return self
        storage = replace(self.preprocessing.storage, intensity=corpus.intensity)
        return replace(self, preprocessing=replace(self.preprocessing, storage=storage))

    @cached_property
    def fingerprint(self) -> str:
        """Of encoder, input view and precision."""
        return fingerprint_view(self.encoder, self.preprocessing, precision=self.precision)


def fingerprint_view(encoder: nn.Module, preprocessing: Preprocessing, *, precision: str) -> str:
    """sha256 of weights, input view and precision: embeddings are comparable where it is the same."""
    facts = [fingerprint_module(encoder), repr(preprocessing), precision]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def open_encoder(
    given: Run | str | Path,
    *,
    source: Source | None = None,
    like: Preprocessing | None = None,
    module: nn.Module | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Opened:
    """The encoder that a user names, ready to embed.

    `given`: a run directory, or its encoder folder; `timm:NAME`, public weights; a folder that timm's `save_for_hf`
    wrote, as a path or `local-dir:FOLDER`; `NETWORK=FILE.safetensors`. `@PX` after any but a run asks for an image
    size; else public weights see images at the size that suits those of `source`, grey ones repeated for each channel.
    `like`: the input view of embeddings that new ones must be comparable with, instead. `module`: for an encoder that
    began as a module of your own. The network is used with `download` only.

    Errors: UsageError for what is no encoder, an unknown name and a run that is not finished, DataError for what is
    missing or broken, RefusedError for pickles.

    >>> open_encoder("timm:vit_small_patch14_dinov2.lvd142m@224").preprocessing.image_size     # doctest: +SKIP
    224
    """
    narrator = narrator or Narrator()
    if isinstance(given, Run):
        return _of_run(given, name=str(given.path), module=module)
    name = str(given)
    folder = Path(name)
    if (folder / "run.json").is_file():
        return _of_run(Run(folder), name=name, module=module)
    if folder.name == "encoder" and (folder.parent / "run.json").is_file():
        return _of_run(Run(folder.parent), name=name, module=module)
    plain, image_size = asked_size(name, what="encoder")
    described = any((Path(plain) / inside / "config.json").is_file() for inside in ("", "encoder"))
    if not (plain.startswith(("timm:", "local-dir:")) or "=" in plain or described):
        refuse_pickle(Path(plain))
        raise UsageError(
            f"{name} is not a run directory: it has no run.json; start one with twoviews pretrain, or name an encoder "
            "as timm:NAME or by a folder"
        )
    if described:
        plain = f"local-dir:{plain}"  # also one that is called as a network is
    with distributed.one_before_others():
        found = find_weights(plain, download=download, what="encoder")
    # Machines have caches of their own; what one of them lacks, none uses.
    reason = next(filter(None, distributed.exchange(found.reason if isinstance(found, Absent) else None)), None)
    if reason is not None or isinstance(found, Absent):
        raise DataError(f"encoder {name}: {reason}")
    if isinstance(found, TimmWeights):
        opened = _of_timm(found, image_size, name=name, source=source, like=like, narrator=narrator)
    else:
        place, _, preprocessing = known_encoder(found, image_size, name=name, what="encoder", module=module)
        encoder: nn.Module = load_encoder(place, module=module)
        opened = Opened(name, encoder.eval(), preprocessing, "fp32", None)
    return opened


def _of_run(run: Run, *, name: str, module: nn.Module | None) -> Opened:
    info = run.require_finished()
    encoder = load_encoder(run.encoder, module=module).eval()
    return Opened(name, encoder, Preprocessing.of(run.encoder), info["precision"], info["threads"], run)


def _of_timm(
    weights: TimmWeights,
    image_size: int | None,
    *,
    name: str,
    source: Source | None,
    like: Preprocessing | None,
    narrator: Narrator,
) -> Opened:
    if like is not None and image_size is None:
        image_size = like.image_size
    sizes = np.zeros((0, 2), np.int32)
    if image_size is None and source is not None:
        sizes = distributed.agreed(looked_at(source).tolist())
        sizes = np.array(sizes, np.int32).reshape(-1, 2)
    storage = like.storage if like is not None else Storage()
    encoder, preprocessing, reason = load_at_size(weights, image_size, storage=storage, sizes=sizes)
    if like is not None:
        reason = "as for the embeddings that are there"
    narrator.chose("image_size", preprocessing.image_size, f"{name}: {reason}")
    return Opened(name, encoder, preprocessing, "fp32", None)


def looked_at(source: Source) -> NDArray[np.int32]:
    """(M, 2): width and height of at most `LOOKED_AT` readable images, evenly spaced."""
    storage, sizes = Storage(), []
    for index in range(0, len(source), max(1, -(-len(source) // LOOKED_AT))):
        try:
            with storage.open(source[index].read()) as image:
                sizes.append((image.header.width, image.header.height))
        except Exception:  # foreign code; decoding will list it among the rejected
            continue
    return np.array(sizes, np.int32).reshape(-1, 2)


def load_at_size(
    weights: TimmWeights, image_size: int | None, *, storage: Storage, sizes: NDArray[np.int32]
) -> tuple[Encoder, Preprocessing, str]:
    """Published weights at the size asked for, or that suits images of these (width, height), and why that size.

    `storage`: what of it is not decided by the weights is kept. Raises as `load_published` does.
    """
    given = published_input(weights)
    side, reason = choose_side(given.size, sizes=sizes, step=given.step, asked=image_size)
    try:
        encoder = load_published(weights, given, image_size=side)
    except UsageError:
        if image_size is not None:
            raise
        encoder = load_published(weights, given, image_size=given.size)
        side, reason = given.size, f"its own: it cannot take {side} px"
    config: Mapping[str, Any] = encoder.body.pretrained_cfg  # type: ignore[assignment]
    return (
        encoder,
        Preprocessing(
            side,
            replace(storage, cache_side=round(STORED * side), channels=given.channels),
            tuple(map(float, config["mean"])),
            tuple(map(float, config["std"])),
        ),
        reason,
    )


def known_encoder(
    folder: Path, image_size: int | None, *, name: str, what: str, module: nn.Module | None = None
) -> tuple[Path, dict[str, Any], Preprocessing]:
    """Where an encoder of ours lies, what is known of it, and how it wants images; nothing of it is loaded."""
    place = encoder_folder(folder)
    about = read_encoder_config(place)["twoviews"]
    if about.get("source") == "module" and module is None:
        raise UsageError(
            f"{what} {name!r} holds weights of {about.get('name')}, a network of your own, without its code: give a "
            "run with an encoder that has a name"
        )
    preprocessing = Preprocessing.of(place)
    if image_size not in (None, preprocessing.image_size):
        raise UsageError(
            f"{what} {name!r} was trained at {preprocessing.image_size} px and takes no other size: leave "
            f"@{image_size} out"
        )
    return place, about, preprocessing
