"""A run as a reference of a comparison in two processes: what it was trained on is read by both, and nobody waits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twoviews.cli import main
from twoviews.jobs.pretraining import pretrain
from twoviews.run import read_json

WORKER = """
import json, sys
from pathlib import Path
from twoviews import distributed
from twoviews.data.assemble import Storage
from twoviews.data.corpus import load_corpus
from twoviews.encoders.public import Absent
from twoviews.errors import DataError
from twoviews.jobs import reading
from twoviews.jobs.comparing.reference import load_reference
from twoviews.narrate import Narrator

run, test, out, lacking = sys.argv[1:]
distributed.join()
storage = Storage(40, 3, "uint8")
corpus = load_corpus(test, cache_side=40, channels=3, intensity="uint8")
reference = load_reference(run, storage=storage, sizes=corpus.sizes)
load = reading.load_corpus

def load_all_but(spec, **options):
    if lacking and lacking in str(spec) and distributed.local_rank() == 1:
        raise DataError("not on this machine")
    return load(spec, **options)

reading.load_corpus = load_all_but
seen = reference.seen(corpus, narrator=Narrator())
distributed.barrier()
answer = seen.reason if isinstance(seen, Absent) else seen
Path(f"{out}.{distributed.rank()}").write_text(json.dumps([type(seen).__name__, answer]))
"""


def write_images(path: Path, *, seed: int, count: int = 24, same: int = 0) -> Path:
    """Pictures that no other seed resembles; the first `same` are those of seed 0."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    blocks[:same] = np.random.default_rng(0).integers(0, 256, (24, 5, 5, 3), dtype=np.uint8)[:same]
    np.savez(path, images=blocks.repeat(8, axis=1).repeat(8, axis=2), labels=np.arange(count) % 2)
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures of seed 0, and on the labels of pictures of seed 1."""
    folder = tmp_path_factory.mktemp("other")
    pool, labelled = (write_images(folder / f"{name}.npz", seed=i) for i, name in enumerate(("pool", "labelled")))
    settings = ("train.steps=1", "train.labelled_batch=4", "train.precision=fp32", "train.threads=1")
    settings = (*settings, "train.device=cpu", "method.name=sup_con", "data.image_size=32")
    words = ["pretrain", str(pool), "--labelled", str(labelled), "--out", str(folder / "run"), "--batch-size", "12"]
    words += ["--encoder", "convnet_tiny", "--quiet", *(word for text in settings for word in ("--set", text))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))
        assert main(words) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("seed", "lacking", "answer"),
    [
        (
            2,
            "",
            [
                "str",
                "3 of 24 test items were among the unlabelled images: the comparison is transductive",
            ],
        ),
        (
            2,
            "pool",
            [
                "str",
                "3 of 24 test items were among the unlabelled images (near duplicates were not looked for: the "
                "unlabelled images cannot be read again): the comparison is transductive",
            ],
        ),
        (
            2,
            "labelled",
            [
                "str",
                "3 of 24 test items were among the unlabelled images: the comparison is transductive; near duplicates "
                "of the labelled images were not looked for: they cannot be read again as they were",
            ],
        ),
        (
            1,
            "",
            [
                "Absent",
                "21 of 24 test items were among the images whose labels the encoder was trained on, so an accuracy on "
                "them would mean nothing: train without them, give another --test, or set evaluate.overlap = drop",
            ],
        ),
    ],
)
def test_all_processes_know_the_same_of_a_run(
    seed: int,
    lacking: str,
    answer: list[str],
    other: Path,
    tmp_path: Path,
    launch: Callable[..., Any],
    finish: Callable[..., list[str]],
) -> None:
    """One of them may lack what the run was trained on: then none goes on with it."""
    test = write_images(tmp_path / "test.npz", seed=seed, same=3)
    assert read_json(other / "run.json")["labels_trained_on"] == 24
    finish(launch("-c", WORKER, other, test, tmp_path / "told", lacking))
    assert [json.loads((tmp_path / f"told.{rank}").read_text()) for rank in range(2)] == [answer] * 2


HOMELESS = """
import json, shutil, sys
from pathlib import Path
from twoviews import distributed
from twoviews.data.assemble import Storage
from twoviews.errors import TwoviewsError
from twoviews.jobs.comparing.reference import load_reference

run, out = map(Path, sys.argv[1:])
distributed.join()
home = Path(f"{out}.run.{distributed.rank()}")
home.mkdir()
shutil.copytree(run / "encoder", home / "encoder")
if distributed.rank() == 0:
    shutil.copy(run / "run.json", home)
try:
    load_reference(str(home / "encoder"), storage=Storage(40, 3, "uint8"), sizes=None)
except TwoviewsError as error:
    Path(f"{out}.{distributed.rank()}").write_text(str(error))
"""


def test_an_encoder_that_lies_in_a_run_on_one_machine_alone(
    other: Path, tmp_path: Path, launch: Callable[..., Any], finish: Callable[..., list[str]]
) -> None:
    """Its images would be read by one process, which then waits for the other."""
    finish(launch("-c", HOMELESS, other, tmp_path / "told"))
    for rank in range(2):
        assert "reference" in (tmp_path / f"told.{rank}").read_text()
