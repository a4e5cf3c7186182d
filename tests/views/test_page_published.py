"""docs/views.md on the policies of single papers and on multi-crop."""

import math
import re
from pathlib import Path

import pytest
from PIL import Image

from twoviews.views.multicrop import MultiCrop
from twoviews.views.policies import POLICIES, Views, find_policy

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "views.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


def test_every_preset_is_named() -> None:
    assert [name for name in POLICIES if f"`{name}`" not in TEXT] == []


@pytest.mark.parametrize(
    ("title", "name"),
    [("`byol`", "byol"), ("`keras-strong`, `keras-weak`", "keras-strong"), ("Multi-crop", "multi-crop")],
)
def test_each_is_shown(title: str, name: str) -> None:
    assert f"(img/views-{name}.png)" in section(title)
    path = DOCS / "img" / f"views-{name}.png"
    assert path.stat().st_size < 300_000
    with Image.open(path) as sheet:
        width, height = sheet.size
    assert width - 10 - 7 * 2 == 8 * ((height - 2) / 6 - 2)


@pytest.mark.parametrize(("column", "name"), [(1, "keras-strong"), (2, "keras-weak")])
def test_the_table_of_keras(column: int, name: str) -> None:
    rows = [line.split("|")[1:-1] for line in section("`keras-strong`, `keras-weak`").splitlines() if "|" in line]
    mirror, translation, visible, times, matrix = (
        [float(number) for number in re.findall(r"[\d.]+", row[column])] for row in rows[2:]
    )
    framing, affine = find_policy(name).describe()
    assert mirror == [framing["flip"]]
    assert translation == [round(100 * framing["translate"], 1)]
    assert visible == [round(100 * (1 - framing["zoom"]), 1), 100]
    assert (times, matrix) == ([1, affine["brightness"]], [affine["jitter"]])
    # The text: at least so much of the area.
    area = f"{100 * (1 - framing['zoom']) ** 2:.0f} %"
    assert area in section("`keras-strong`, `keras-weak`")
    options = section("Changing strengths")
    assert f"{(1 - framing['zoom']) ** 2:g}" in options[options.index("their `views.min_scale`") :]


def test_what_the_page_says_of_options() -> None:
    for name in ("byol", "keras-strong", "keras-weak"):
        for option in ("min_scale", "flip", "blur"):
            find_policy(name).with_options(**{option: 0.5})
    byol = find_policy("byol")
    assert byol.with_options(min_scale=0.08, flip=0.5) == byol
    assert math.isclose(byol.with_options(strength=0.5).describe()[1]["hue"], 0.1)


def test_what_the_page_says_of_areas() -> None:
    whole = Views(find_policy("photo"), image_size=96, mean=(0.5,), std=(0.5,))
    crops = MultiCrop(whole, global_views=2, local_views=4, local_size=48)
    shares = []
    for policy in (crops.policy, crops.local_policy):
        crop = policy.describe()[0]
        shares += [crop["min_scale"], crop["max_scale"]]
    assert "{:.0%} to {:.0%} of\nthe area, local ones {:.0%} to {:.0%}".format(*shares).replace("%", " %") in section(
        "Multi-crop"
    )
