"""Charts: where things lie, and that words cannot break out."""

import re
from itertools import pairwise

import pytest

from twoviews.report.figures import Arrow, Axis, Line, element, line_chart, linear_axis
from twoviews.report.matrices import confusion_matrix


@pytest.mark.parametrize(
    ("low", "high", "scale", "texts"),
    [
        (0.0, 1.0, 100, ["0", "20", "40", "60", "80", "100"]),
        (0.42, 0.99, 100, ["40", "60", "80", "100"]),
        (2.83, 6.24, 1, ["2", "3", "4", "5", "6", "7"]),
        (0.0, 460.0, 1, ["0", "100", "200", "300", "400", "500"]),
        (-2.9, -1.9, 1, ["-3.0", "-2.8", "-2.6", "-2.4", "-2.2", "-2.0", "-1.8"]),
        (0.0, 12000.0, 1, ["0", "2,500", "5,000", "7,500", "10,000", "12,500"]),
    ],
)
def test_ticks_are_round_and_enclose(low: float, high: float, scale: float, texts: list[str]) -> None:
    axis = linear_axis(low, high, scale=scale)
    assert [text for _, text in axis.ticks] == texts
    assert axis.low <= low < high <= axis.high


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-12, 1e6])
def test_a_constant_has_an_axis_too(value: float) -> None:
    axis = linear_axis(value, value)
    assert axis.low < value < axis.high
    assert len(axis.ticks) >= 3


def test_points_lie_where_their_values_are() -> None:
    axis = Axis(0.0, 10.0, ())
    line = Line("a", "s-linear", ((0.0, 0.0), (5.0, 10.0), (10.0, 5.0)))
    drawn = line_chart([line], x=axis, y=axis, width=154, height=154, right=10, label="")
    assert 'points="44,114 94,14 144,64"' in drawn


def test_texts_at_line_ends_do_not_overlap() -> None:
    axis = linear_axis(0.0, 1.0)
    lines = [Line(str(i), "s-knn", ((0.0, 0.5), (1.0, 0.99 + i / 1000)), end=f"arm{i}") for i in range(7)]
    drawn = line_chart(lines, x=axis, y=axis, width=400, height=300, right=80, label="")
    heights = [float(y) for y in re.findall(r'class="end-label[^>]* y="([\d.]+)"', drawn)]
    assert len(heights) == 7
    ordered = sorted(heights)
    assert all(b - a > 13.4 for a, b in pairwise(ordered))
    assert heights == ordered[::-1], "the highest line has the highest text"
    assert ordered[0] >= 14
    assert ordered[-1] <= 300


def test_confusion_counts_only_what_happened() -> None:
    drawn = confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"])
    assert re.findall(r"<title>(.*?)</title>", drawn) == [
        "true cat, predicted cat: 3 of 4",
        "true cat, predicted dog: 1 of 4",
        "true dog, predicted dog: 4 of 4",
    ]


def test_many_classes_stay_readable_and_small() -> None:
    matrix = [[50 if i == j else (i + j) % 3 for j in range(200)] for i in range(200)]
    drawn = confusion_matrix(matrix, [f"class {i}" for i in range(200)])
    assert drawn.count("<rect") == 1
    assert 2 <= drawn.count("<path") <= 24
    assert drawn.count("h4v4h-4z") == sum(value > 0 for row in matrix for value in row)
    assert "predicted" in drawn
    assert len(drawn) < 800_000


def test_an_arrow_ends_where_its_goal_is() -> None:
    axis = Axis(0.0, 10.0, ())
    line = Line("a", "s-linear", ((0.0, 5.0), (10.0, 5.0)))
    arrows = [
        Arrow((0.0, 5.0), 10.0, "4.2×", "needs 420"),
        Arrow((5.0, 5.0), 10.0, ">2×", "needs more", beyond=True),
        Arrow((9.8, 5.0), 10.0, "1.0×", "too short to be drawn"),
    ]
    drawn = line_chart([line], x=axis, y=axis, width=154, height=154, right=10, label="", arrows=arrows)
    assert 'class="shaft" d="M51.5 64H144"' in drawn
    assert 'class="shaft beyond" d="M101.5 64H144"' in drawn
    assert re.findall(r'class="arrow-text[^>]*>([^<]*)', drawn) == ["4.2×", "&gt;2×"]
    assert "too short" not in drawn


def test_ticks_of_two_lines_make_room() -> None:
    axis = Axis(0.0, 1.0, ((0.0, "10\n1"), (1.0, "1,000\nall")), "labels")
    drawn = line_chart([Line("a", "s-knn", ((0.0, 0.0),))], x=axis, y=axis, width=300, height=200, label="")
    assert re.findall(r'class="tick middle( second)?"[^>]*>([^<]*)', drawn) == [
        ("", "10"),
        (" second", "1"),
        ("", "1,000"),
        (" second", "all"),
    ]
    heights = [float(y) for y in re.findall(r'y="([\d.]+)"', drawn)]
    assert max(heights) <= 200


def test_elements_escape_attributes_and_text() -> None:
    drawn = element("p", {"title": '"><b onclick=x>', "lang": None}, "<i>&", element("b", {}, "<"))
    assert drawn == '<p title="&#34;&gt;&lt;b onclick=x&gt;">&lt;i&gt;&amp;<b>&lt;</b></p>'
