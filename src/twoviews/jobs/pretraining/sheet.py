"""A contact sheet of the augmentations, before any training."""

from collections.abc import Sequence
from pathlib import Path

from twoviews.config import make_recipe, parse_assignment
from twoviews.data.source import Spec
from twoviews.errors import ResourceError
from twoviews.jobs.decide import check_names, decide_views, storage_of
from twoviews.jobs.pretraining.prepare import build_views, some_samples
from twoviews.jobs.reading import load_shared
from twoviews.narrate import Narrator
from twoviews.recipes import load_recipe
from twoviews.views.sheet import contact_sheet


def draw_sheet(
    data: Spec,
    *,
    out: str | Path,
    recipe: str | Path = "default",
    image_size: int | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
    download: bool = False,
    narrator: Narrator | None = None,
) -> Path:
    """Write a PNG: each row an image, first as stored, then as training would see it."""
    narrator = narrator or Narrator()
    options = {"data": {"image_size": image_size}, "train": {"seed": seed}}
    config = make_recipe(load_recipe(recipe), options, *map(parse_assignment, settings))
    check_names(config)
    corpus = load_shared(data, storage_of(config), exclude=config.data.exclude, download=download, narrator=narrator)
    views = build_views(decide_views(config, corpus, narrator=narrator))
    batch = some_samples(corpus)
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(batch, views, seed=config.train.seed).save(path, format="PNG")
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}") from None
    return path
