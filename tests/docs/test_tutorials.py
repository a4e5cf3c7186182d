"""The tutorials run, command by command, on small pictures and with short trainings."""

import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twoviews.cli import main

PAGES = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.md"))
SCRIPT = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

COLOURS = {"hat": (200, 60, 40), "pants": (40, 80, 200), "shoes": (60, 180, 70)}
SHORT = {
    "pretrain": [
        *("--epochs", "2", "--batch-size", "8", "--encoder", "convnet_tiny", "--image-size", "32"),
        *("--set", "train.precision=fp32", "--set", "train.threads=1", "--set", "train.evaluations=1"),
    ],
    "evaluate": [
        *("--seeds", "2", "--subsets", "2", "--arms", "knn,linear,finetune,supervised"),
        *("--set", "evaluate.updates=3", "--set", "evaluate.batch_size=8", "--set", "evaluate.lrs=1e-3"),
    ],
    "suggest": ["--count", "6"],
}
"""What is added to a command, in place of what would take long."""

LONG = ("--minutes", "--image-size", "--count")


def commands_of(page: Path) -> list[list[str]]:
    lines = "".join(SCRIPT.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("twoviews ")]


def shortened(arguments: list[str]) -> list[str]:
    kept: Iterator[str] = iter(arguments)
    words = [word for word in kept if word not in LONG or not next(kept)]
    return [*words, *SHORT.get(words[0], [])]


def picture(path: Path, kind: str, *, number: int, grey: bool = False) -> None:
    """A blob of the colour of its kind on a noisy ground."""
    rng = np.random.default_rng([number, *kind.encode()])
    values = rng.integers(90, 160, (40, 40, 3))
    top, left = rng.integers(2, 16, 2)
    values[top : top + 20, left : left + 20] = np.array(COLOURS[kind]) + rng.integers(-25, 25, (20, 20, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    (image.convert("L") if grey else image).save(path)


def fill_in(path: Path) -> None:
    """What a person does with a list of suggestions; the kind stands in the names of these files."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "label": Path(row["file_name"]).name.partition("-")[0]} for row in rows)


def write_list(path: Path, rows: list[tuple[str, ...]], *columns: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the tutorials name."""
    monkeypatch.chdir(tmp_path)
    for kind in COLOURS:
        for number in range(8):
            picture(Path("catalogue", kind, f"{'abcdefgh'[number]}.jpg"), kind, number=number)
            picture(Path("photos", f"{kind}-{number}.jpg"), kind, number=number)
            picture(Path("test", kind, f"{number}.jpg"), kind, number=100 + number)
            picture(Path("labelled", kind, f"{number}.jpg"), kind, number=400 + number)
        for number in range(4):
            picture(Path("examples", kind, f"{number}.jpg"), kind, number=200 + number)
    picture(Path("query.jpg"), "hat", number=300)
    for name, start in (("train", 0), ("test", 1000)):
        rows = []
        for number in range(20):
            kind, file = ("hat", "pants")[number // 2 % 2], f"scans/{start + number}.png"
            picture(Path(file), kind, number=start + number, grey=True)
            rows.append((file, {"hat": "finding", "pants": "healthy"}[kind], f"{name}-{number // 2}"))
        write_list(Path(f"{name}.csv"), rows, "file_name", "label", "group")
    tags = [(f"photos/{kind}-{n}.jpg", f"{kind}|dark" if n % 2 else kind) for kind in COLOURS for n in range(8)]
    write_list(Path("tagged.csv"), tags, "file_name", "label")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("shop")
def test_tutorial(page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from twoviews.jobs.pretraining import pretrain

    monkeypatch.setattr(pretrain, "measure", lambda *_: (0.01, 0.0))  # only --minutes needs it
    commands = commands_of(page)
    assert len(commands) > 2
    for arguments in map(shortened, commands):
        assert main(arguments) == 0, f"twoviews {shlex.join(arguments)}: {capsys.readouterr().err}"
        for option in ("--out", "--page", "--manifest", "--sort-into"):
            if option in arguments:
                assert Path(arguments[arguments.index(option) + 1]).exists()
        if arguments[0] == "suggest":
            fill_in(Path(arguments[arguments.index("--out") + 1]))


def test_there_are_tutorials() -> None:
    assert {page.stem for page in PAGES} == {"catalogue", "few_labels", "medical", "tagging", "deduplicate"}
