"""What a name of an encoder stands for: weights on this machine, or the folder of an encoder that was trained here."""

from pathlib import Path

from twoviews.encoders import encoder_folder, read_encoder_config
from twoviews.encoders.public import Absent, TimmWeights, find_in_folder, find_public, name_file
from twoviews.encoders.weights import refuse_pickle
from twoviews.errors import DataError, UsageError, unknown_name
from twoviews.run import Run


def asked_size(name: str, *, what: str) -> tuple[str, int | None]:
    """A name without `@PX`, and PX. Raises UsageError. `what` is named: reference, encoder."""
    plain, at, side = name.rpartition("@")
    if not at or not side.isdecimal() or Path(name).exists():
        return name, None
    if not 4 <= int(side) <= 2048:
        raise UsageError(f"{what} {name!r} asks for {side} px: give 4 to 2048")
    return plain, int(side)


def find_weights(name: str, *, download: bool, what: str) -> TimmWeights | Absent | Path:
    """Weights by a name, or the folder of an encoder that was trained here."""
    network, equals, file = name.partition("=")
    if equals and not Path(name).exists():
        return name_file(network, Path(file), what=what)
    prefix, colon, rest = name.partition(":")
    if colon and prefix == "local-dir":
        return _find_in(Path(rest), what=what)
    path = Path(name)
    refuse_pickle(path)
    if path.suffix == ".safetensors":
        if path.is_file() and (path.parent / "config.json").is_file():
            return _find_in(path.parent, what=what)
        raise UsageError(f"{what} {name!r} does not say which network it is for: give NETWORK={name}")
    if len(path.parts) > 1 or name.startswith((".", "~")) or (path.is_dir() and not _is_network(name)):
        return _find_in(path, what=what)
    if colon and prefix != "timm":
        raise unknown_name(f"kind of {what}", prefix, ("timm", "local-dir"))
    return find_public(name, download=download, what=what)


def _find_in(folder: Path, *, what: str) -> TimmWeights | Path:
    if not folder.is_dir():
        raise DataError(
            f"no folder {str(folder)!r} for a {what}: give a run directory, a folder that timm wrote, or a name"
        )
    if (folder / "run.json").is_file():
        Run(folder).require_finished()
        return folder
    try:
        read_encoder_config(folder)
    except DataError:
        if encoder_folder(folder) == folder:  # without the table that is in our own
            return find_in_folder(folder, what=what)
        raise
    return folder


def _is_network(name: str) -> bool:
    import timm

    return bool(timm.is_model(name.partition(".")[0]))
