"""docs/views.md says what the presets do."""

import re
from pathlib import Path

import pytest
from PIL import Image

from twoviews.views.policies import find_policy

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "views.md").read_text(encoding="utf-8")
PRESETS = ("photo", "simclr-small", "gray", "multiband", "digits", "weak")
ROWS = {
    cells[0]: dict(zip(PRESETS, cells[2:], strict=True))
    for line in re.findall(r"^\| `views\.(.*) \|$", TEXT, re.MULTILINE)
    if len(cells := [cell.strip("` ") for cell in line.split("|")]) == 2 + len(PRESETS)
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_options_table_holds_the_presets_own_strengths(name: str) -> None:
    policy = find_policy(name)
    given = {option: float(row[name]) for option, row in ROWS.items() if row[name] != "no crop"}
    assert {"strength", "blur"} <= given.keys()
    # 0.8 x 0.75 is not quite 0.6.
    changed, own = (
        [{key: round(x, 9) if isinstance(x, float) else x for key, x in op.items()} for op in each.describe()]
        for each in (policy.with_options(**given), policy)
    )
    assert changed == own
    if name == "digits":
        assert {option for option in ROWS if ROWS[option][name] == "no crop"} == {"min_scale", "flip"}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_shown(name: str) -> None:
    assert re.search(rf"^## `{name}`$", TEXT, re.MULTILINE)
    assert f"(img/views-{name}.png)" in TEXT
    path = DOCS / "img" / f"views-{name}.png"
    assert path.stat().st_size < 300_000
    with Image.open(path) as sheet:
        width, height = sheet.size
    # Six rows of eight square cells, a gutter of 2, and one of 8 beside the originals.
    assert width - 10 - 7 * 2 == 8 * ((height - 2) / 6 - 2)
