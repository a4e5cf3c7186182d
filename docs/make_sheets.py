"""The contact sheets of docs/views.md, made again.

    python docs/make_sheets.py

Six pictures a preset, and for multi-crop, each with seven views as training would see them, at one seed. The pictures
come with scikit-learn (two photographs, and handwritten digits) or are made here: a landscape of eight bands. Nothing
is downloaded.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom
from scipy.spatial import cKDTree
from sklearn.datasets import load_digits, load_sample_images

from twoviews.views.multicrop import MultiCrop
from twoviews.views.ops import Part
from twoviews.views.policies import Views, find_policy
from twoviews.views.sheet import contact_sheet

IMG = Path(__file__).parent / "img"

# Squares of the two photographs: number, left, top, side.
SQUARES = (
    (0, 40, 15, 350),
    (0, 85, 155, 240),
    (0, 330, 110, 300),
    (1, 150, 55, 310),
    (1, 10, 40, 330),
    (1, 205, 110, 195),
)

# Reflectance in eight bands from blue to short-wave infrared, roughly as spectral libraries have it.
GROUND = {
    "water": (0.10, 0.09, 0.08, 0.05, 0.04, 0.03, 0.02, 0.01),
    "forest": (0.04, 0.05, 0.07, 0.05, 0.10, 0.26, 0.34, 0.16),
    "crop": (0.05, 0.06, 0.10, 0.06, 0.15, 0.38, 0.46, 0.22),
    "young crop": (0.08, 0.09, 0.13, 0.12, 0.20, 0.30, 0.36, 0.30),
    "meadow": (0.06, 0.08, 0.14, 0.10, 0.20, 0.33, 0.38, 0.27),
    "soil": (0.10, 0.12, 0.16, 0.20, 0.23, 0.25, 0.28, 0.36),
    "stubble": (0.14, 0.17, 0.23, 0.29, 0.32, 0.35, 0.38, 0.43),
    "road": (0.17, 0.18, 0.19, 0.20, 0.20, 0.21, 0.22, 0.24),
    "roof": (0.26, 0.28, 0.30, 0.33, 0.34, 0.34, 0.35, 0.38),
}
FIELDS = ("crop", "young crop", "meadow", "soil", "stubble", "crop", "meadow")


def photographs(side: int) -> NDArray[np.uint8]:
    """(6, side, side, 3)."""
    images = [Image.fromarray(image) for image in load_sample_images().images]
    cut = [images[n].crop((left, top, left + size, top + size)) for n, left, top, size in SQUARES]
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)) for image in cut])


def grey_photographs(side: int) -> NDArray[np.uint8]:
    """(6, side, side, 1)."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L"))[..., None] for image in photographs(side)])


def digits(_: int) -> NDArray[np.uint8]:
    """(6, 8, 8, 1)."""
    return np.rint(load_digits().images[[3, 4, 5, 7, 8, 9]] * (255 / 16)).astype(np.uint8)[..., None]


def clouds(rng: np.random.Generator, height: int, width: int, *, cells: int, octaves: int = 4) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1; `cells` are the lumps along the height."""
    total = np.zeros((height, width))
    for octave in range(octaves):
        rows = cells * 2**octave + 3
        columns = rows * width // height + 1
        grid = zoom(rng.normal(size=(rows, columns)), (height / (rows - 2), width / (columns - 2)), order=3)
        total += grid[:height, :width] / 2**octave
    return (total - total.mean()) / total.std()


def landscape(side: int) -> NDArray[np.uint8]:
    """(6, side, side, 8): fields, woods, a river, roads and a village; made up."""
    rng = np.random.default_rng(7)
    height, width = 2 * side, 3 * side
    y, x = np.mgrid[:height, :width].astype(np.float64)
    unit = side / 128
    spectra = np.array(list(GROUND.values()))
    kinds = list(GROUND)

    # Fields: straight plots whose borders bend a little, each ploughed in its own direction.
    bend = 5 * unit * clouds(rng, height, width, cells=3, octaves=2)
    seeds = rng.uniform((0, 0), (height, width), (72, 2))
    plot = cKDTree(seeds).query(np.stack([y + bend, x - bend], -1))[1]
    ground = np.array([kinds.index(FIELDS[i]) for i in rng.integers(0, len(FIELDS), len(seeds))])[plot]
    angle = rng.uniform(0, np.pi, len(seeds))[plot]
    furrows = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / (5 * unit)))
    light = 1 + 0.10 * rng.normal(size=len(seeds))[plot] + 0.05 * furrows

    wood = clouds(rng, height, width, cells=3) > 0.75
    ground[wood] = kinds.index("forest")
    light[wood] = 1 + 0.22 * clouds(rng, height, width, cells=48, octaves=2)[wood]

    town = np.hypot(y - 0.68 * height, x - 0.42 * width) < 52 * unit + 7 * unit * clouds(rng, height, width, cells=4)
    lot = 8 * unit
    row, column = (y // lot).astype(int), (x // lot).astype(int)
    lane = ((row % 3 == 0) & (y % lot < 2 * unit)) | ((column % 4 == 0) & (x % lot < 2 * unit))
    shade = rng.uniform(0.6, 1.3, (row.max() + 1, column.max() + 1))
    house = np.where(shade > 0.75, shade, 0.0)[row, column] * (y % lot > 3 * unit) * (x % lot > 3 * unit)
    for place, kind in ((town, "meadow"), (town & (house > 0), "roof"), (town & lane, "road")):
        ground[place] = kinds.index(kind)
        light[place] = house[place] if kind == "roof" else 1.0

    for start, slope, swing in ((0.30, 0.25, 10), (0.95, -0.45, 14)):
        way = start * height + slope * x + swing * unit * np.sin(x / (60 * unit))
        road = np.abs(y - way) < 1.4 * unit * np.hypot(1, slope)
        ground[road], light[road] = kinds.index("road"), 1.0

    middle = 0.62 * width + 30 * unit * np.sin(y / (38 * unit)) + 12 * unit * np.sin(y / (15 * unit))
    river = np.abs(x - middle) < 6 * unit + 2 * unit * np.sin(y / (50 * unit))
    pond = np.hypot((y - 0.2 * height) / 0.8, x - 0.17 * width) < 17 * unit + 4 * unit * clouds(
        rng, height, width, cells=5
    )
    for water in (river, pond):
        ground[water], light[water] = kinds.index("water"), 1.0

    relief = 1 + 0.06 * clouds(rng, height, width, cells=2, octaves=3)
    scene = spectra[ground] * (light * relief)[..., None] + 0.004 * rng.normal(size=(height, width, 8))
    # Twice the reflectance: what is bright on the ground is at half.
    values = np.rint((scene * 2).clip(0, 1) * 255).astype(np.uint8)
    return values.reshape(2, side, 3, side, 8).swapaxes(1, 2).reshape(6, side, side, 8)


# Preset, its pictures, their stored side and the side of a view.
SHEETS: tuple[tuple[str, Callable[[int], NDArray[np.uint8]], int, int], ...] = (
    ("photo", photographs, 100, 80),
    ("gray", grey_photographs, 100, 80),
    ("multiband", landscape, 100, 80),
    ("digits", digits, 8, 8),
    ("simclr-small", photographs, 32, 32),
    ("weak", photographs, 80, 64),
    ("byol", photographs, 80, 64),
    ("keras-strong", photographs, 80, 64),
)


def views_of(preset: str, *, image_size: int) -> Views:
    """The preset's own views, normalised to [-1, 1]."""
    return Views(find_policy(preset), image_size=image_size, mean=(0.5,), std=(0.5,))


def draw(views: Views | MultiCrop, values: NDArray[np.uint8]) -> Image.Image:
    """The sheet that `twoviews views` would write of these pictures, in fewer colours, so that the file is small."""
    count, height, width, _ = values.shape
    batch = Part(
        values=torch.from_numpy(values),
        sizes=torch.tensor([[width, height]] * count),
        samples=torch.arange(count),
    )
    sheet = contact_sheet(batch, views, seed=0, columns=8, rows=6)
    # 64 levels a channel look the same, and a palette of 256 colours would not; black and white stay what they are.
    levels = Image.fromarray(((np.asarray(sheet).astype(np.int64) + 2) // 4 * 4).clip(max=255).astype(np.uint8))
    return levels.convert("L") if values.shape[3] == 1 else levels


def save(sheet: Image.Image, path: Path) -> None:
    """Write the sheet and say how large it is."""
    sheet.save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Write every sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=IMG)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for preset, pictures, stored, image_size in SHEETS:
        save(draw(views_of(preset, image_size=image_size), pictures(stored)), out / f"views-{preset}.png")
    crops = MultiCrop(views_of("photo", image_size=64), global_views=2, local_views=5, local_size=32)
    save(draw(crops, photographs(80)), out / "views-multi-crop.png")


if __name__ == "__main__":
    main()
