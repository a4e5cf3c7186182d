"""Pictures in the page: the contact sheet, the sprite of thumbnails, and what is cut from it."""

import base64
import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from twoviews.errors import DataError
from twoviews.report.figures import Point, element
from twoviews.report.parts import Gallery
from twoviews.report.reading import Record

BYTES_AS_THEY_ARE = 600_000
MOST_PIXELS = 40_000_000
MOST_NAMES = 20
"""With more classes, names on the map would hide it."""

_HIDDEN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


@dataclass(frozen=True)
class Picture:
    """An image inside the page: data URI, and width and height in CSS pixels."""

    uri: str
    width: int
    height: int
    crisp: bool = False


@dataclass(frozen=True)
class Map:
    """The drawn map; `keys` are (colour class, filter class, name), one a class."""

    drawn: Markup
    count: int
    keys: tuple[tuple[str, str, str], ...]
    wrong: bool


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail with its words; `other` when its class is not that of the image asked for."""

    tile: Markup
    name: str
    title: str
    similarity: str = ""
    other: bool = False


def visible(name: str) -> str:
    """A file name with its control, direction and undecodable characters written as escapes.

    >>> visible("gnp.\u202etxt")
    'gnp.\\\\u202etxt'
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), name)


def contact_sheet(record: Record) -> Picture | None:
    """`views.png`, a small one enlarged by a whole factor with its pixels kept."""
    if record.views is None:
        return None
    picture = _load(record.views)
    times = max(1, min(4, 960 // picture.width))
    return Picture(picture.uri, picture.width * times, picture.height * times, crisp=times > 1)


def sprite_sheet(record: Record) -> Picture | None:
    """`thumbnails.png`. Raises `DataError` when it cannot hold the images of the gallery."""
    gallery, path = record.gallery, record.thumbnails
    if gallery is None or path is None or not gallery.ids:
        return None
    picture = _load(path)
    rows = -(-len(gallery.ids) // gallery.columns)
    columns = min(gallery.columns, len(gallery.ids))
    if picture.width < gallery.tile * columns or picture.height < gallery.tile * rows:
        raise DataError(
            f"{path} is {picture.width} x {picture.height} pixels, too small for the {len(gallery.ids)} "
            "images of gallery.json: run twoviews evaluate again"
        )
    return picture


def neighbour_rows(gallery: Gallery | None) -> list[tuple[Thumbnail, list[Thumbnail]]]:
    """Each query of the gallery with its nearest images."""
    if gallery is None:
        return []
    rows = []
    for query in gallery.neighbours:
        asked = gallery.class_of(query.query)
        near = []
        for neighbour in query.nearest:
            mine = gallery.class_of(neighbour.index)
            similarity = "" if neighbour.similarity is None else f"{neighbour.similarity:.2f}"
            other = None not in (asked, mine) and asked != mine
            near.append(_thumbnail(gallery, neighbour.index, similarity=similarity, other=other))
        rows.append((_thumbnail(gallery, query.query), near))
    return rows


def embedding_map(gallery: Gallery | None, *, pictures: bool) -> Map | None:
    """The gallery's images at their 2-D positions, as points and, with `pictures`, as thumbnails."""
    if gallery is None or not gallery.xy:
        return None
    width, margin = 1000.0, 34.0
    left, top = min(x for x, _ in gallery.xy), max(y for _, y in gallery.xy)
    # One scale for both axes: distances are what the map is about.
    spread = max(max(x for x, _ in gallery.xy) - left, top - min(y for _, y in gallery.xy), 1e-9)
    scale = (width - 2 * margin) / spread
    places = [(margin + (x - left) * scale, margin + (top - y) * scale) for x, y in gallery.xy]
    low, high = min(x for x, _ in places), max(x for x, _ in places)
    places = [(x + (width - low - high) / 2, y) for x, y in places]
    height = max(y for _, y in places) + margin
    side = max(20.0, min(46.0, 0.8 * math.sqrt(width * height / len(places))))
    dots, images = [], []
    # The misclassified come last, so that they lie on top.
    for index, (x, y) in sorted(enumerate(places), key=lambda entry: _is_wrong(gallery, entry[0])):
        css = _colour(gallery, index) + (" wrong" if _is_wrong(gallery, index) else "")
        title = element("title", {}, _title(gallery, index))
        dots.append(element("circle", {"class": f"dot {css}", "cx": x, "cy": y, "r": 7}, title))
        if pictures:
            corner = {"x": x - side / 2, "y": y - side / 2, "width": side, "height": side}
            frame = element("rect", {"class": "frame", **corner})
            images.append(element("g", {"class": f"item {css}"}, title, _tile(gallery, index, corner), frame))
    names = [
        element("text", {"class": "map-name middle", "x": x, "y": y + 9}, name)
        for (x, y), name in _names(gallery, places)
    ]
    parts = [("pictures", images), ("dots", dots), ("names", names)]
    attributes = {"class": "map", "viewBox": f"0 0 {width:.0f} {height:.0f}", "role": "img"}
    drawn = element(
        "svg",
        {**attributes, "aria-label": "map of the embeddings"},
        *(element("g", {"class": css}, *inside) for css, inside in parts if inside),
    )
    keys = tuple((f"c{i % 10}", f"k{i}", name) for i, name in enumerate(gallery.classes))
    wrong = any(_is_wrong(gallery, index) for index in range(len(places)))
    return Map(drawn, len(places), keys, wrong)


def _names(gallery: Gallery, places: Sequence[Point]) -> list[tuple[Point, str]]:
    """Each class name at the image nearest to the class's median: never between two islands."""
    if len(gallery.classes) > MOST_NAMES:
        return []
    found = []
    for name in gallery.classes:
        own = [place for index, place in enumerate(places) if gallery.class_of(index) == name]
        if own:
            mx, my = (sorted(place[axis] for place in own)[len(own) // 2] for axis in (0, 1))
            middle = min(own, key=lambda place: math.hypot(place[0] - mx, place[1] - my))
            found.append((middle, name if len(name) <= 14 else name[:13] + "…"))
    return found


def _colour(gallery: Gallery, index: int) -> str:
    label = gallery.labels[index] if gallery.labels else -1
    return f"c{label % 10} k{label}" if label >= 0 else "cn"


def _is_wrong(gallery: Gallery, index: int) -> bool:
    true, predicted = gallery.class_of(index), gallery.class_of(index, predicted=True)
    return None not in (true, predicted) and true != predicted


def _title(gallery: Gallery, index: int) -> str:
    true = gallery.class_of(index)
    text = visible(gallery.ids[index]) + (f" · {true}" if true is not None else "")
    predicted = gallery.class_of(index, predicted=True)
    return f"{text}, predicted {predicted}" if _is_wrong(gallery, index) else text


def _thumbnail(gallery: Gallery, index: int, *, similarity: str = "", other: bool = False) -> Thumbnail:
    name = gallery.class_of(index) or ""
    return Thumbnail(_tile(gallery, index, {}), name, visible(gallery.ids[index]), similarity, other)


def _tile(gallery: Gallery, index: int, box: dict[str, float]) -> Markup:
    """An image cut from the sprite sheet, which the page holds once."""
    size = gallery.tile
    cut = f"{index % gallery.columns * size} {index // gallery.columns * size} {size} {size}"
    attributes = {"class": "tile", "viewBox": cut, **box, "aria-hidden": "true"}
    return element("svg", attributes, element("use", {"href": "#sprite"}))


def _load(path: Path) -> Picture:
    """A PNG file as a data URI; a large one is packed as JPEG so that the page stays small."""
    try:
        data = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise DataError(f"{path} cannot be read: {error}; remove it to have a report without it") from None
    kind = "png"
    for quality in (88, 75, 60, 40):
        if len(data) <= BYTES_AS_THEY_ARE:
            break
        packed = io.BytesIO()
        image.convert("RGB").save(packed, "JPEG", quality=quality, subsampling=0)
        data, kind = packed.getvalue(), "jpeg"
    return Picture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", image.width, image.height)
