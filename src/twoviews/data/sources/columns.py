"""What the columns of a table mean: images, ids, labels, groups, splits."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twoviews.data.sources.arrow import Part, is_bytes, is_text
from twoviews.errors import DataError, unknown_name

IMAGE_COLUMNS = ("img", "image")
SHARD_COLUMNS = ("jpg", "jpeg", "png", "webp")  # what Hugging Face makes of WebDataset shards
PATH_COLUMNS = ("file_name", "path")
_KEPT_OPEN = 64  # parts; a column is read from each of them in turn

Texts: TypeAlias = NDArray[np.object_]  # str or None; those of one class are one object


def image_column(part: Part) -> str:
    """The column that holds images or their paths. Raises DataError if there is none."""
    schema, names = part.schema, list[str](part.schema.names)
    for name in IMAGE_COLUMNS + SHARD_COLUMNS + PATH_COLUMNS:
        if name in names:
            kind = schema.field(name).type
            if (is_text(kind) and name not in SHARD_COLUMNS) or (is_bytes(kind) and name not in PATH_COLUMNS):
                return name
            if pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}:
                return name
            raise DataError(f"{part.name!r}: column {name!r} holds {kind}, not image bytes or paths")
    features = _features(part)
    images = [name for name in names if features.get(name) == {"_type": "Image"}]
    if len(images) == 1 and pa.types.is_struct(schema.field(images[0]).type):
        return images[0]
    wanted = " or ".join(IMAGE_COLUMNS + PATH_COLUMNS)
    raise DataError(f"{part.name!r} has no column {wanted}, only {', '.join(names)}")


def outside_paths(part: Part, column: str) -> list[str]:
    """The paths of the images, if some may lie outside of the table."""
    leaf = _path_leaf(part, column)
    if leaf is None:
        return []
    if leaf != column:
        has_bytes = part.schema.field(column).type.get_field_index("bytes") >= 0
        if has_bytes and not part.may_lack(f"{column}.bytes"):
            return []
    paths: list[str] = part.column(leaf).drop_null().to_pylist()
    return paths


def find_ids(parts: Sequence[Part], column: str, *, rooted: bool) -> tuple[NDArray[np.int64], Any] | None:
    """The order of the rows by id, and the ids in that order (large_string); None where no column gives ids.

    `rooted`: absolute paths are taken relative to the folder that all are in. Arrow sorts text by its UTF-8 bytes,
    which is the order of Python's str.
    """
    shaped = next((part for part in parts if not pa.types.is_null(part.schema.field(column).type)), parts[0])
    names = shaped.schema.names
    leaf = _path_leaf(shaped, column)
    # A column of its own first: Hugging Face's `save_to_disk` keeps of an image's path its last part only.
    candidates = [name for name in PATH_COLUMNS if name in names and is_text(shaped.schema.field(name).type)]
    candidates += [leaf] if leaf is not None else []
    for name in dict.fromkeys([*candidates, *(["id"] if "id" in names else [])]):
        ids = _joined(parts, name)
        if ids is None or ids.null_count or not pc.all(pc.greater(pc.binary_length(ids), 0)).as_py():
            continue
        if pc.any(pc.starts_with(ids, "./")).as_py():
            ids = pc.replace_substring_regex(ids, pattern=r"^(\./+)+", replacement="")
        order = pc.sort_indices(ids)
        ids = ids.take(order)
        if pc.any(pc.equal(ids.slice(1), ids.slice(0, max(0, len(ids) - 1)))).as_py():
            continue
        return order.to_numpy().astype(np.int64), _below_common_folder(ids) if rooted and len(ids) else ids
    return None


def rows_in_split(parts: Sequence[Part], split: str, *, what: str) -> NDArray[np.bool_]:
    """Whether each row is of the split that the column `split` names. Raises UsageError if none is."""
    values = _joined(parts, "split")
    if values is None:
        kind = parts[0].schema.field("split").type
        raise DataError(f"{parts[0].name!r}: column split holds {kind}, not whole numbers or text")
    found = np.asarray(pc.equal(values, split).fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)
    if len(values) and not found.any():
        raise unknown_name(f"split of {what!r}", split, pc.unique(values.drop_null()).to_pylist())
    return found


def label_texts(parts: Sequence[Part]) -> Texts:
    """The class name of every row, from `label` or `labels`; the names of a Hugging Face ClassLabel for numbers."""
    schema = parts[0].schema
    if "label" in schema.names:
        name = "label"
    elif "labels" in schema.names and not pa.types.is_nested(schema.field("labels").type):
        name = "labels"
    else:  # a list holds several labels of one image, which is no class
        return np.full(sum(sum(part.counts) for part in parts), None, dtype=object)
    found = []
    for part in parts:
        column = _values(part, name, parts=parts)
        whole = pa.types.is_integer(column.type)
        found.append(_class_names(part, column, name) if whole else _shared(_text(part, column, name)))
    return np.concatenate(found)


def group_texts(parts: Sequence[Part]) -> Texts:
    """The group of every row, from `group`, which holds text or whole numbers."""
    if "group" not in parts[0].schema.names:
        return np.full(sum(sum(part.counts) for part in parts), None, dtype=object)
    return np.concatenate([_shared(_text(part, _values(part, "group", parts=parts), "group")) for part in parts])


def _path_leaf(part: Part, column: str) -> str | None:
    kind = part.schema.field(column).type
    if pa.types.is_struct(kind):
        at = kind.get_field_index("path")
        return f"{column}.path" if at >= 0 and is_text(kind.field(at).type) else None
    return column if is_text(kind) else None


def _values(part: Part, name: str, *, parts: Sequence[Part]) -> Any:
    """A column; in a part where it has no value at all it has no type either."""
    if pa.types.is_null(part.schema.field(name.partition(".")[0]).type):
        return pa.chunked_array([pa.nulls(sum(part.counts), pa.large_string())])
    try:
        return part.column(name)
    finally:
        if len(parts) > _KEPT_OPEN:
            part.release()


def _joined(parts: Sequence[Part], name: str) -> Any:
    """One column of all parts, as text; None if it is neither text nor whole numbers."""
    chunks = []
    for part in parts:
        column = _values(part, name, parts=parts)
        if not (is_text(column.type) or pa.types.is_integer(column.type)):
            return None
        chunks += column.cast(pa.large_string()).chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.large_string())


def _below_common_folder(ids: Any) -> Any:
    first, last = Path(ids[0].as_py()), Path(ids[len(ids) - 1].as_py())
    if not (first.is_absolute() and last.is_absolute()):
        return ids
    # The first and the last in order have no more in common than all have.
    root = os.path.commonpath([first.parent, last.parent])
    return pc.utf8_slice_codeunits(ids, start=len(root.rstrip("/")) + 1)


def _text(part: Part, column: Any, name: str) -> Any:
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        raise DataError(f"{part.name!r}: column {name} holds {column.type}, not whole numbers or text")
    return column.cast(pa.large_string())


def _shared(column: Any) -> Texts:
    found: list[Texts] = [np.empty(0, dtype=object)]
    for chunk in pc.dictionary_encode(column).chunks:
        table = [value or None for value in chunk.dictionary.to_pylist()]
        found.append(_taken(table, chunk.indices.fill_null(-1).to_numpy()))
    return np.concatenate(found)


def _class_names(part: Part, column: Any, name: str) -> Texts:
    # -1 is how Hugging Face and torchvision mark rows without a label.
    values = np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy())
    feature = _features(part).get(name)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not names:
        unique, codes = np.unique(values, return_inverse=True)
        return _taken([None if value == -1 else str(value) for value in unique.tolist()], codes)
    wrong = np.flatnonzero((values < -1) | (values >= len(names)))
    if len(wrong):
        row, value = wrong[0], values[wrong[0]]
        raise DataError(f"{part.name!r}, row {row}: {name} {value} is not among the {len(names)} class names")
    return _taken([str(text) for text in names], values)


def _taken(table: Sequence[str | None], codes: NDArray[Any]) -> Texts:
    """The text of each code, None for -1; rows share the text, so a million labels are a million references."""
    taken: Texts = np.array([*table, None], dtype=object)[codes]
    return taken


def _features(part: Part) -> dict[str, Any]:
    """What Hugging Face writes about the columns: into the schema, or into a file beside the Arrow files."""
    try:
        features = json.loads((part.schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        try:
            features = json.loads((part.folder / "dataset_info.json").read_bytes())["features"]
        except (OSError, KeyError, TypeError, ValueError, RecursionError):
            return {}
    return features if isinstance(features, dict) else {}
