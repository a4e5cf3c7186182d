"""Vectors of a corpus with a run's encoder, computed once and kept beside the run."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from twoviews import distributed
from twoviews.compute import Compute, choose_compute
from twoviews.data.assemble import Storage
from twoviews.data.corpus import Corpus
from twoviews.data.source import Spec
from twoviews.encoders import load_encoder
from twoviews.errors import DataError
from twoviews.evaluation.features import Embeddings, fingerprint_module
from twoviews.jobs.online import vectors_of
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.run import Run, read_json
from twoviews.views.policies import POLICIES, Views


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder folder says of its input."""

    image_size: int
    storage: Storage
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(folder: Path) -> "Preprocessing":
        """Read `config.json` of an encoder folder."""
        config = read_json(folder / "config.json")
        own, cfg = config["twoviews"], config["pretrained_cfg"]
        storage = Storage(
            own["cache_side"],
            own["channels"],
            own.get("intensity", "uint8"),
            own.get("background", "white"),
            own.get("pages", "auto"),
        )
        return Preprocessing(own["image_size"], storage, tuple(cfg["mean"]), tuple(cfg["std"]))

    def views(self) -> Views:
        """The clean view: the central square, resized and normalised."""
        return Views(POLICIES["none"], image_size=self.image_size, mean=self.mean, std=self.std)

    def load(
        self, data: Spec, *, labels: str | Path | None = None, download: bool = False, narrator: Narrator
    ) -> Corpus:
        """Decode data as this encoder wants it."""
        return load_shared(data, self.storage, labels=labels, download=download, narrator=narrator)


def embed(
    run: Run | str | Path,
    data: Spec,
    *,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    encoder: nn.Module | None = None,
    download: bool = False,
    narrator: Narrator | None = None,
) -> Embeddings:
    """`h` of every readable item of `data`: (N, num_features) float32 with ids and labels.

    Written to `out` as vectors.npy, index.csv and meta.json when given. `labels`: a manifest joined by id. `encoder`:
    for a run that trained your own module, that module, into which the weights are loaded.

    >>> embed("runs/a", "photos/").vectors.shape          # doctest: +SKIP
    (1204, 512)
    """
    distributed.join()
    narrator = narrator or Narrator()
    run = run if isinstance(run, Run) else Run(run)
    info = run.require_finished()
    preprocessing = Preprocessing.of(run.encoder)
    corpus = preprocessing.load(data, labels=labels, download=download, narrator=narrator)
    compute = choose_compute(device="auto", precision=info["precision"], threads=info["threads"], narrator=narrator)
    trained = compute.place(load_encoder(run.encoder, module=encoder)).eval()
    embeddings = embed_corpus(run, trained, corpus, preprocessing=preprocessing, compute=compute)
    if out is not None and distributed.is_main():
        embeddings.save(out, overwrite=True)
    distributed.barrier()
    return embeddings


def embed_corpus(
    run: Run, encoder: nn.Module, corpus: Corpus, *, preprocessing: Preprocessing, compute: Compute
) -> Embeddings:
    """Embeddings of a corpus, read from `RUN/embeddings` when encoder, input view, precision and data are the same."""
    facts = [fingerprint_module(encoder), repr(preprocessing), compute.precision]
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    key = hashlib.sha256(f"{fingerprint}{corpus.fingerprint}".encode()).hexdigest()[:16]
    folder = run.embeddings / key
    vectors = None
    if (folder / "meta.json").is_file():
        try:
            vectors = Embeddings.load(folder).vectors
        except DataError:
            vectors = None  # damaged: made again below
    if not all(distributed.exchange(vectors is not None)):  # all processes make them, or none
        vectors = None
    stored = vectors is not None
    if vectors is None:
        vectors = vectors_of(encoder, corpus, preprocessing.views(), compute=compute)
    embeddings = Embeddings(vectors, corpus.ids, corpus.labels, corpus.classes, fingerprint)
    if not stored and distributed.is_main():
        embeddings.save(folder, overwrite=True)
    return embeddings
