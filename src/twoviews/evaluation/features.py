"""Embeddings, the currency of evaluation, and the proof that a frozen encoder stayed frozen.

N samples, D dimensions.
"""

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import DataError, RefusedError, ResourceError, UsageError
from ..staged import replace_folder, restore, staged_beside

_FILES = ("vectors.npy", "index.csv", "meta.json")
OWN_FILES = frozenset((*_FILES, "vectors.parquet", "rejected.csv"))
"""What a folder of embeddings may hold."""
_FORMAT = 1
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ELOOP, errno.ENAMETOOLONG),
)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of samples with what is known about them. Vectors from elsewhere work as well.

    vectors (N, D) float32, not normalised; ids, N strings; labels (N,) int64 into classes, -1 = none;
    classes, distinct names; fingerprint of the encoder and of the input view that it was given.
    Raises UsageError when the parts do not fit together.

    >>> vectors = np.eye(2, dtype=np.float32)
    >>> e = Embeddings(vectors, ("a.png", "b.png"), np.array([0, -1]), ("cat",), "")
    >>> len(e), e.select([1]).ids
    (2, ('b.png',))
    """

    vectors: npt.NDArray[np.float32]
    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    fingerprint: str

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise UsageError(
                f"embeddings need vectors (N, D) of float32, got {self.vectors.shape} {self.vectors.dtype}: "
                "reshape or convert them with astype"
            )
        if self.labels.shape != (len(self.ids),) or self.labels.dtype.kind != "i":
            raise UsageError(
                f"embeddings need one integer label an id (-1 = none), got {len(self.ids)} ids and labels "
                f"{self.labels.shape} {self.labels.dtype}"
            )
        if len(self.vectors) != len(self.ids):
            raise UsageError(f"embeddings need one id a vector, got {len(self.vectors)} and {len(self.ids)}")
        if len(set(self.classes)) != len(self.classes) or "" in self.classes:
            raise UsageError(f"class names must be distinct and not empty, got {list(self.classes)}")
        if len(self.labels) and not -1 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise UsageError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, but with {len(self.classes)} "
                f"classes they must lie in -1 .. {len(self.classes) - 1}"
            )
        object.__setattr__(self, "labels", self.labels.astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, indices: npt.ArrayLike) -> "Embeddings":
        """The samples at `indices`: integers in the order wanted, or a boolean mask of length N."""
        chosen = np.asarray(indices)
        rows = np.arange(len(self))[chosen if chosen.size else np.zeros(0, dtype=np.int64)]
        ids = tuple(self.ids[i] for i in rows)
        return Embeddings(self.vectors[rows], ids, self.labels[rows], self.classes, self.fingerprint)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write vectors.npy, index.csv (id, class name) and meta.json into `folder`, all or nothing.

        Raises RefusedError when `folder` is not empty; with `overwrite`, only when it holds anything but
        embeddings. Raises ResourceError when the disk is full.
        """
        folder, target = Path(folder), Path(os.path.realpath(folder))
        present: set[str] = set()
        try:
            restore(target)
            with suppress(FileNotFoundError, NotADirectoryError):
                present = {path.name for path in target.iterdir()}
            if present and not (overwrite and present <= OWN_FILES):
                step = "choose another folder" if overwrite else "choose another folder or pass overwrite"
                raise RefusedError(f"{str(folder)!r} is not empty (it holds {min(present)!r}): {step}")
            with staged_beside(target) as staged:
                self._write(staged)
                if overwrite and (target.is_dir() or not target.exists()):
                    replace_folder(target, staged)
                else:
                    staged.rename(target)
            _sync(target.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceError(
                    f"no space left for the embeddings in {str(folder)!r}: {self.vectors.nbytes / 1e6:.0f} "
                    f"MB are needed, {shutil.disk_usage(target.parent).free / 1e6:.0f} MB are free; nothing "
                    "was changed, make room or choose another disk"
                ) from error
            if error.errno in _REFUSED:
                raise RefusedError(
                    f"cannot write embeddings to {str(folder)!r} ({error.strerror}): choose a folder "
                    "that can be written"
                ) from error
            raise
        return folder

    def _write(self, folder: Path) -> None:
        with (folder / "vectors.npy").open("wb") as file:
            np.save(file, self.vectors, allow_pickle=False)
            _flush(file)
        # surrogatepass is the one handler under which every str reads back as itself.
        path = folder / "index.csv"
        with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("id", "label"))
            names = (*self.classes, "")  # -1 picks the last
            writer.writerows((i, names[label]) for i, label in zip(self.ids, self.labels, strict=True))
            _flush(file)
        meta = {
            "format": _FORMAT,
            "count": len(self),
            "dimensions": self.vectors.shape[1],
            "classes": self.classes,
            "fingerprint": self.fingerprint,
        }
        with (folder / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1)
            _flush(file)

    @classmethod
    def load(cls, folder: str | Path, *, mapped: bool = False) -> "Embeddings":
        """Read what `save` or `twoviews embed` wrote. Raises DataError when it is missing or damaged; reads no pickle.

        `mapped`: the vectors stay in their file (`.npy` only) and are read where they are used.
        """
        folder = Path(folder)
        if not folder.exists():
            restore(folder)
        tabular = (folder / "vectors.parquet").is_file() and not (folder / "vectors.npy").is_file()
        for name in ("meta.json",) if tabular else _FILES:
            if not (folder / name).is_file():
                raise DataError(f"{str(folder)!r} holds no embeddings: {name} is missing; make them with embed")
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta["format"] != _FORMAT:
                raise DataError(
                    f"{str(folder)!r} holds embeddings of format {meta['format']!r}, this version reads "
                    f"{_FORMAT}: embed again"
                )
            classes = tuple(map(str, meta["classes"]))
            codes = {name: i for i, name in enumerate(classes)} | {"": -1}
            if tabular:
                from .tables import read_parquet

                vectors, ids, labels = read_parquet(folder / "vectors.parquet")
                pairs = [(i, codes[label]) for i, label in zip(ids, labels, strict=True)]
            else:
                with (folder / "index.csv").open(encoding="utf-8", errors="surrogatepass", newline="") as file:
                    rows = csv.reader(file, strict=True)
                    if next(rows)[:2] != ["id", "label"]:
                        raise ValueError("index.csv does not start with id,label")
                    pairs = [(i, codes[label]) for i, label, *_ in rows]
                vectors = _read_vectors(folder / "vectors.npy", mapped=mapped)
            if not len(pairs) == len(vectors) == meta["count"]:
                raise ValueError(f"{len(vectors)} vectors, {len(pairs)} ids, {meta['count']} announced")
            numbers = np.array([label for _, label in pairs], dtype=np.int64)
            return cls(vectors, tuple(i for i, _ in pairs), numbers, classes, str(meta["fingerprint"]))
        except (ValueError, KeyError, TypeError, StopIteration, csv.Error, UsageError) as error:
            raise DataError(
                f"the embeddings in {str(folder)!r} are damaged ({type(error).__name__}: {error}): embed again"
            ) from error


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_vectors(path: Path, *, mapped: bool = False) -> npt.NDArray[np.float32]:
    with path.open("rb") as file:
        # The header first: an array of objects would be a pickle, and a lying shape would fill the memory.
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("vectors.npy has an unknown header version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise RefusedError(f"{str(path)!r} holds Python objects, which could run code: embed again")
    if dtype.kind != "f" or len(shape) != 2:
        raise ValueError(f"vectors.npy holds {dtype} {shape}, not a matrix of floats")
    if 0 in shape:
        return np.zeros(shape, dtype=np.float32)
    # Mapped first: numpy compares the announced shape with the size of the file before anything is read.
    vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped and vectors.dtype == np.float32:
        return vectors  # type: ignore[no-any-return]
    return np.array(vectors, dtype=np.float32, order="C")


def embed(
    encoder: nn.Module,
    batches: Iterable[Tensor],
    *,
    device: str | torch.device,
    autocast: torch.dtype | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors (N, D) float32 of all `batches`, in order, with `encoder` in evaluation mode.

    The encoder lies on `device` and maps (B, ...) to (B, D). Every submodule gets its mode back, also after
    an error. Raises DataError without a batch, UsageError when the encoder does not give (B, D).

    >>> embed(nn.Flatten(), [torch.ones(2, 1, 2, 2)], device="cpu").shape
    (2, 4)
    """
    device = torch.device(device)
    training = [module for module in encoder.modules() if module.training]
    chunks = []
    try:
        encoder.eval()
        # The mode is entered a batch at a time: a tensor that the loader makes and keeps for training must
        # not become an inference tensor.
        for batch in batches:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
            ):
                vectors = encoder(batch.to(device, non_blocking=True))
            if vectors.ndim != 2 or len(vectors) != len(batch):
                raise UsageError(
                    f"the encoder gave {tuple(vectors.shape)} for a batch of {len(batch)}: it must give one "
                    "vector a sample, (B, D)"
                )
            chunks.append(vectors.float().cpu().numpy())
    finally:
        for module in training:
            module.training = True
    if not chunks:
        raise DataError("nothing to embed: the data gave no batch")
    return np.concatenate(chunks)


def fingerprint_module(module: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of all weights and buffers, in state_dict order.

    The same on every device and memory format.

    >>> a = nn.Linear(2, 1)
    >>> before = fingerprint_module(a)
    >>> _ = nn.init.constant_(a.bias, 7.0)
    >>> before == fingerprint_module(a)
    False
    """
    return hashlib.sha256("".join(_entries(module).values()).encode()).hexdigest()


def _entries(module: nn.Module) -> dict[str, str]:
    digests = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise UsageError(
                f"cannot fingerprint {name!r} of {type(module).__name__}: its state is a "
                f"{type(value).__name__}, not a tensor"
            )
        digest = hashlib.sha256(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        content: Any = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(content)
        digests[name] = digest.hexdigest()
    return digests


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Declare that the block leaves `module` alone; RuntimeError if a weight or buffer differs afterwards.

    >>> layer = nn.BatchNorm1d(3)
    >>> with frozen(layer):
    ...     _ = layer(torch.ones(2, 3))
    Traceback (most recent call last):
    ...
    RuntimeError: BatchNorm1d was declared frozen but changed in 'running_mean' and 2 more: ...
    """
    before = _entries(module)
    yield
    after = _entries(module)
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RuntimeError(
            f"{type(module).__name__} was declared frozen but changed in {changed[0]!r}{more}: keep it in "
            "eval mode (BatchNorm moves its statistics in train mode) and its parameters out of the optimiser"
        )


def check_labelled(vectors: npt.NDArray[Any], labels: npt.NDArray[Any], *, classes: int, what: str = "vectors") -> None:
    """Raise unless vectors are (N, D), N > 0 and finite, and labels (N,) lie in 0 .. classes - 1."""
    check_finite(vectors, what=what)
    if labels.shape != (len(vectors),) or labels.dtype.kind not in "iu":
        raise UsageError(f"{len(vectors)} {what} need {len(vectors)} integer labels, got {labels.shape} {labels.dtype}")
    if not len(vectors):
        raise DataError(f"no labelled {what}: give at least one labelled sample")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but must lie in 0 .. {classes - 1}: "
            "leave out samples without a label (-1)"
        )


def check_finite(vectors: npt.NDArray[Any], *, what: str = "vectors") -> None:
    """Raise UsageError unless vectors are (N, D), DataError unless all are finite."""
    if vectors.ndim != 2:
        raise UsageError(f"{what} must be (N, D), got {vectors.shape}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{int((~finite).sum())} of {len(finite)} {what} are not finite (first: row "
            f"{int(finite.argmin())}): the encoder has diverged or its input is broken"
        )
