"""A contact sheet of the augmentations, before any training."""

from pathlib import Path

from twoviews.config import make_recipe
from twoviews.data.corpus import load_corpus
from twoviews.data.source import Spec
from twoviews.errors import ResourceError
from twoviews.jobs.prepare import build_views, check_names, decide_views, some_samples
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
    download: bool = False,
    narrator: Narrator | None = None,
) -> Path:
    """Write a PNG: each row an image, first as stored, then as training would see it."""
    narrator = narrator or Narrator()
    options = {"data": {"image_size": image_size}, "train": {"seed": seed}}
    config = make_recipe(load_recipe(recipe), options)
    check_names(config)
    side = config.data.cache_side or round(1.25 * (config.data.image_size or 96))
    corpus = load_corpus(data, cache_side=side, channels=config.data.channels, download=download, narrator=narrator)
    views = build_views(decide_views(config, corpus, narrator=narrator))
    batch = some_samples(corpus)
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(batch, views, seed=config.train.seed).save(path, format="PNG")
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}") from None
    return path
