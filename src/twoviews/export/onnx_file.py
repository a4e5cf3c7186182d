"""ONNX, with the preprocessing inside: `model.onnx`, run by onnxruntime in any language."""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twoviews.errors import UsageError
from twoviews.export.subject import Outputs, Reopened, Subject, Written, words_of_input
from twoviews.export.torch_export import dynamic_shapes, example

FILE = "model.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def accept(subject: Subject) -> None:
    """Raise UsageError where the packages are not installed."""
    absent = [name for name in NEEDED if find_spec(name) is None]
    if absent:
        raise UsageError(
            f"the format onnx needs {', '.join(absent)}: install twoviews[onnx], or take --format torch-export or "
            "state-dict"
        )


def write(subject: Subject, folder: Path) -> Written:
    """Trace and write. Raises UsageError where ONNX has no word for an operation of the network."""
    import onnx

    path = folder / FILE
    program = subject.program()
    talk = logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")
    levels = [logger.level for logger in talk]
    try:
        for logger in talk:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            done = torch.onnx.export(
                program,
                (example(subject),),
                dynamo=True,
                dynamic_shapes=dynamic_shapes(),
                input_names=["images"],
                output_names=subject.outputs(),
                verbose=False,
            )
            assert done is not None
            done.save(path)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"ONNX cannot express {subject.name} ({reason}): take --format torch-export or state-dict"
        ) from error
    finally:
        for logger, level in zip(talk, levels, strict=True):
            logger.setLevel(level)
    _describe(onnx, path, subject)
    (folder / "config.json").write_text(json.dumps(subject.facts(), indent=2) + "\n", encoding="utf-8")
    code = (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("FOLDER/{FILE}")\n'
        f'{", ".join(subject.outputs())}{"," if subject.head is None else ""} = session.run(None, {{"images": images}})'
    )
    return Written("onnx", code, f"{words_of_input(subject)}. In float32.", takes_pictures=True)


def reopen(subject: Subject, folder: Path) -> Reopened:
    """By onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        return tuple(torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()}))

    return run


def _describe(onnx: Any, path: Path, subject: Subject) -> None:
    """Write the facts into the file too, which may travel alone; weights that lie beside it stay there."""
    model = onnx.load(str(path), load_external_data=False)
    facts = {key: json.dumps(value) for key, value in subject.facts().items()}
    onnx.helper.set_model_props(model, facts)
    path.write_bytes(model.SerializeToString())
