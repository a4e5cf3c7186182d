"""A program of `torch.export`, with the preprocessing inside: `program.pt2`, run without any code of twoviews."""

import io
import json
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from twoviews.errors import RefusedError
from twoviews.export.subject import Outputs, Reopened, Subject, Written, words_of_input

FILE = "program.pt2"


def accept(subject: Subject) -> None:
    """Every network that torch can trace; whether it can is seen when it does."""


def dynamic_shapes() -> Any:
    """Of a program's one input: any batch, height and width."""
    return (
        {
            0: torch.export.Dim("batch", min=1),
            1: torch.export.Dim("height", min=1),
            2: torch.export.Dim("width", min=1),
        },
    )


def example(subject: Subject) -> Tensor:
    """What a program is traced with; of three different lengths, so that none is taken for another."""
    side = subject.image_size
    return torch.zeros(2, side + 3, side + 5, subject.channels, dtype=torch.uint8)


def write(subject: Subject, folder: Path) -> Written:
    """Trace and write. Raises RefusedError where the archive holds a pickle, which this torch should not write."""
    with torch.no_grad():
        traced = torch.export.export(subject.program(), (example(subject),), dynamic_shapes=dynamic_shapes())
    # The example would be stored beside the program, and that by pickle.
    traced.example_inputs = None
    # Into memory: where a disk is full, torch's own writer ends the process.
    archive = io.BytesIO()
    torch.export.save(traced, archive)
    held = pickles_in(archive)
    if held:
        raise RefusedError(
            f"torch {torch.__version__} writes pickles into {FILE} ({', '.join(held[:3])}), and twoviews writes none: "
            "take --format onnx, or another torch"
        )
    (folder / FILE).write_bytes(archive.getbuffer())
    (folder / "config.json").write_text(json.dumps(subject.facts(), indent=2) + "\n", encoding="utf-8")
    gives = "vectors" if subject.head is None else "vectors, logits, probabilities"
    code = f'import torch\n\nprogram = torch.export.load("FOLDER/{FILE}").module()\n{gives} = program(images)'
    note = (
        f"{words_of_input(subject)}. On the CPU, in float32. The archive holds no pickle: tensors as bytes, the "
        "program as JSON, and an empty place where torch would keep example inputs."
    )
    return Written("pytorch", code, note, takes_pictures=True)


def reopen(subject: Subject, folder: Path) -> Reopened:
    """As a user of torch would."""
    program = torch.export.load(folder / FILE).module()

    def run(images: Tensor) -> Outputs:
        given = program(images)
        return given if isinstance(given, tuple) else (given,)

    return run


def pickles_in(file: Path | IO[bytes]) -> list[str]:
    """Members of a `.pt2` archive that are pickles, or archives as `torch.save` writes them."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        as_bytes: set[str] = set()
        found: list[str] = []
        for name in names:
            if not name.endswith(("_weights_config.json", "_constants_config.json")):
                continue
            folder = name.rpartition("/")[0]
            for tensor in json.loads(archive.read(name))["config"].values():
                member = f"{folder}/{tensor['path_name']}"
                (found.append if tensor["use_pickle"] else as_bytes.add)(member)
        for name in names:
            # What the bytes of a tensor begin with says nothing.
            if name not in as_bytes and name not in found and archive.read(name)[:2].startswith((b"\x80", b"PK")):
                found.append(name)
    return found
