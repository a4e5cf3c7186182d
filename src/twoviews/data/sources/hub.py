"""`hf:NAME`: data sets that the package `datasets` loads, from the Hugging Face Hub or from a local folder."""

import errno
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from twoviews.data.source import Source
from twoviews.data.sources.arrow import TablePart
from twoviews.data.sources.table import TableSource
from twoviews.errors import DataError, ResourceError, TwoviewsError, UsageError, unknown_name

_UNREACHED = frozenset(
    ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "TimeoutException")
)
_OLDEST = 4  # versions before could run the code that comes with a data set


class _Name(NamedTuple):
    name: str
    config: str | None
    split: str | None


def open_hub(rest: str, *, spec: str) -> Source:
    """The data set `NAME[@CONFIG][:split]`, of the Hub (`user/name`) or of a local folder (`./folder`).

    Without a split: `train`, or the only one. Only this may reach the network, and only for a name of the Hub; what
    `datasets` loads stays in its own cache. Images are handed over as they are stored, and no code of a data set is
    run. Raises UsageError if `datasets` is not installed or a split is unknown, DataError if nothing can be loaded.

    >>> source = open_hub("ylecun/mnist:test", spec="hf:ylecun/mnist:test")  # doctest: +SKIP
    """
    asked = _parse(rest, spec)
    local = Path(asked.name).expanduser()
    here = local.is_dir()
    if local.is_file():
        raise UsageError(f"{spec!r} names a file: open {asked.name!r} without 'hf:'")
    if not here and (asked.name.startswith((".", "/", "~")) or asked.name.count("/") > 1):
        raise DataError(f"{spec!r}: there is no folder {asked.name!r}; a name of the Hub is written user/name")
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"{spec!r} needs the package datasets: pip install 'twoviews[hf]'") from error
    if int(datasets.__version__.partition(".")[0]) < _OLDEST:
        raise UsageError(
            f"{spec!r} needs datasets {_OLDEST} or newer, found {datasets.__version__}: pip install -U datasets"
        )
    # Progress and notes belong on stderr; stdout is for results.
    with redirect_stdout(sys.stderr):
        try:
            loaded = _load(datasets, str(local) if here else asked.name, asked.config, saved=here and _is_saved(local))
            found = _one_split(loaded, asked, spec)
            # As Arrow: nothing is decoded, and the table stays in the mapped files of the cache.
            table = found.with_format("arrow")[:]
            mark = str(found._fingerprint)
        except TwoviewsError:
            raise
        except Exception as error:  # whatever its many parts raise: network, names, formats
            raise _failure(error, asked, spec) from error
    files = sorted(Path(entry["filename"]) for entry in found.cache_files)
    part = TablePart(table.replace_schema_metadata(found.features.arrow_schema.metadata), name=spec, folder=Path())
    return TableSource([part], spec=spec, files=files, mark=mark, rooted=True)


def _parse(rest: str, spec: str) -> _Name:
    """Colons and at-signs may be part of a folder's name, if it exists."""
    for body, split in ((rest, None), _cut(rest, ":")):
        for name, config in ((body, None), _cut(body, "@")):
            if name and Path(name).expanduser().exists():
                return _Name(name, config or None, split or None)
    body, split = _cut(rest, ":")
    name, config = _cut(body, "@")
    if not name or "\0" in rest or config == "" or split == "":
        raise UsageError(f"{spec!r} names no data set: write hf:user/name, hf:user/name@config or hf:user/name:split")
    return _Name(name, config, split)


def _cut(text: str, mark: str) -> tuple[str, str | None]:
    head, found, tail = text.rpartition(mark)
    return (head, tail) if found else (text, None)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _load(datasets: Any, name: str, config: str | None, *, saved: bool) -> Any:
    if not saved:
        return datasets.load_dataset(name, config)
    if config is not None:
        raise UsageError(f"{name!r} was saved as one data set and has no configurations: drop '@{config}'")
    return datasets.load_from_disk(name)


def _one_split(loaded: Any, asked: _Name, spec: str) -> Any:
    if not isinstance(loaded, dict):
        if asked.split is not None and str(loaded.split) != asked.split:
            raise UsageError(f"{asked.name!r} has no splits, but {asked.split!r} was asked for: drop ':{asked.split}'")
        return loaded
    splits = {str(name): found for name, found in loaded.items()}
    if asked.split is not None:
        if asked.split not in splits:
            raise unknown_name(f"split of {asked.name!r}", asked.split, splits)
        return splits[asked.split]
    if "train" not in splits and len(splits) != 1:
        raise DataError(f"{spec!r} has the splits {', '.join(sorted(splits))}: name one, as '{spec}:{min(splits)}'")
    return splits["train"] if "train" in splits else next(iter(splits.values()))


def _failure(error: Exception, asked: _Name, spec: str) -> TwoviewsError:
    chain = list(_causes(error))
    if any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in chain):
        return ResourceError(f"{spec!r}: the disk is full; free some, or set HF_HOME to a folder on another one")
    if any(isinstance(cause, MemoryError) for cause in chain):
        return ResourceError(f"{spec!r}: out of memory while loading it")
    kinds = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    if kinds & {"GatedRepoError"}:
        return DataError(f"{spec!r} is gated: accept its terms on the Hub and log in with 'hf auth login'")
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        return DataError(f"{spec!r}: there is no data set {asked.name!r} on the Hub that you may read: check the name")
    if kinds & _UNREACHED:
        return DataError(
            f"{spec!r}: the Hub cannot be reached, and {asked.name!r} is not in the cache of datasets: go online, or "
            "name a local folder"
        )
    reason = " ".join(str(chain[-1]).split())[:200] or type(chain[-1]).__name__
    return DataError(f"{spec!r} cannot be loaded by datasets: {reason}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__
