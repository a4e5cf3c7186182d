"""The vectors of an embedding: decoded ahead, a batch a part, and how fast that went."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from twoviews import distributed
from twoviews.compute import Compute
from twoviews.data.assemble import Form
from twoviews.data.cache import Decoded, cache_home, find
from twoviews.data.decoding.decode import check_depth
from twoviews.data.decoding.intensity import Intensity
from twoviews.data.decoding.photo import one_at_a_time
from twoviews.data.keys import UNREADABLE, cheap_key, content_of
from twoviews.data.loading import Batch
from twoviews.data.pool import for_each
from twoviews.data.source import Raw, Source, is_stored
from twoviews.errors import DataError
from twoviews.evaluation.features import embed
from twoviews.jobs.vectors.embedded import next_number, stamp_of, stamp_of_raw, write_part
from twoviews.jobs.vectors.online import BATCH
from twoviews.jobs.vectors.opened import Opened
from twoviews.narrate import Narrator, quiet

AHEAD = 4 * BATCH
"""Images that are decoded at a time, while those before them are embedded."""
MEASURED_SECONDS = 0.5


class Maker:
    """Makes vectors, a batch a part, and measures how fast."""

    def __init__(self, source: Source, opened: Opened, encoder: nn.Module, compute: Compute) -> None:
        self._source, self._encoder, self._compute = source, encoder, compute
        self._storage = opened.preprocessing.storage
        self._views = opened.preprocessing.views()
        self._stamp = stamp_of(source, 0) if is_stored(source) else None
        self._cached: Decoded | None = None
        self._rows: dict[int, int] = {}
        self._seconds = 0.0
        self._last: Tensor | None = None
        self.dimensions = int(encoder.num_features)  # type: ignore[arg-type]

    def make(self, todo: NDArray[np.int64], form: Form, parts: Path, *, narrator: Narrator) -> None:
        """Vectors of the items `todo`, whose batches the processes share out; each is sealed as a part."""
        if len(todo) > AHEAD:  # few are decoded sooner than looked for
            self._look_in_cache(form, narrator=narrator)
        first = distributed.agreed(next_number(parts))
        batches = -(-len(todo) // BATCH)
        number, processes = distributed.rank(), distributed.size()
        begin, end = (batches * i // processes for i in (number, number + 1))
        mine = todo[begin * BATCH : end * BATCH]
        started = time.monotonic()
        with narrator.track(len(mine), "embedding images") as tick, ThreadPoolExecutor(1) as ahead:
            chunks = [mine[start : start + AHEAD] for start in range(0, len(mine), AHEAD)]
            coming = ahead.submit(self._decode, chunks[0], form) if chunks else None
            part = first + begin
            for following in [*chunks[1:], None] if chunks else []:
                decoded = coming.result()  # type: ignore[union-attr]
                coming = ahead.submit(self._decode, following, form) if following is not None else None
                for start in range(0, len(decoded.values), BATCH):
                    self._seal(decoded, slice(start, start + BATCH), parts, part)
                    tick(len(decoded.values[start : start + BATCH]), samples=1)
                    part += 1
        self._seconds += time.monotonic() - started

    def rate(self, count: int) -> float | None:
        """Images a second of all processes together."""
        return count / distributed.largest(self._seconds) if count else None

    def limit(self, reached: float | None) -> float | None:
        """Images a second of the forward pass alone, measured briefly on a batch in each process; their sum."""
        rate = self._measured() if self._last is not None else 0.0
        # What else the machine does counts against so short a measurement: it cannot be less than what was reached.
        return max(sum(distributed.exchange(rate)), reached or 0.0) or None

    def _measured(self) -> float:
        images, best = self._last, 0.0
        assert images is not None
        started = time.monotonic()
        for part in (images[:32], images, images, images):
            before = time.perf_counter()
            with torch.inference_mode(), self._compute.autocast():
                self._encoder(part)
            if images.is_cuda:
                torch.cuda.synchronize()
            best = max(best, len(part) / (time.perf_counter() - before))
            if time.monotonic() - started > MEASURED_SECONDS:
                break
        return best

    def _look_in_cache(self, form: Form, *, narrator: Narrator) -> None:
        """Take decoded images from the user's cache, where pretraining on the same data has left them in this form."""
        home = cache_home()
        key = cheap_key(self._source, how=repr(self._storage)) if home.is_dir() else None
        found = find(home, key, self._source, narrator=narrator) if key is not None else None
        if found is not None and found.values.shape[1:] == (form.height, form.width, form.channels):
            self._cached = found
            self._rows = {index: row for row, index in enumerate(found.kept.tolist())}

    def _decode(self, items: NDArray[np.int64], form: Form) -> "_Pixels":
        count = len(items)
        decoded = _Pixels(
            items,
            np.zeros((count, form.height, form.width, form.channels), np.uint8),
            np.zeros((count, 2), np.int32),
            [("", "", "")] * count,
            [""] * count,
        )
        intensity = Intensity.parse(self._storage.intensity)

        def put(at: int, raw: Raw) -> None:
            row = self._rows.get(int(items[at]))
            if self._cached is not None and row is not None:
                decoded.sizes[at], decoded.values[at] = self._cached.sizes[row], self._cached.values[row]
                return
            with self._storage.open(raw) as image:
                decoded.sizes[at] = image.header.width, image.header.height
                decoded.reasons[at] = form.misfit(image.header)
                if not decoded.reasons[at]:
                    decoded.values[at] = image.pixels(
                        size=(form.width, form.height), channels=form.channels, intensity=intensity
                    )

        def work(at: int) -> None:
            name, content, stamp = "", UNREADABLE, self._stamp or ""
            try:
                item = self._source[int(items[at])]
                name = item.id
                try:
                    raw = item.read()
                    check_depth(raw)  # before its content, for which a Pillow image is loaded
                    with one_at_a_time(raw.width * raw.height if isinstance(raw, Image.Image) else 0):
                        stamp, content = self._stamp or stamp_of_raw(raw), content_of(raw)  # before it can change
                        put(at, raw)
                finally:
                    decoded.told[at] = (name, content.hex(), stamp)
            except DataError as error:
                decoded.reasons[at] = str(error)
            except Exception as error:  # `read` of a source is foreign code
                decoded.reasons[at] = f"{type(error).__name__}: {error}"[:200]

        for_each(range(count), work, narrator=quiet(), what="decoding images")
        return decoded

    def _seal(self, decoded: "_Pixels", part: slice, parts: Path, number: int) -> None:
        told, reasons = decoded.told[part], decoded.reasons[part]
        readable = np.array([not reason for reason in reasons])
        vectors = np.zeros((0, self.dimensions), np.float32)
        if readable.any():
            device = self._compute.device
            batch = Batch(
                torch.from_numpy(decoded.values[part][readable]).to(device),
                torch.from_numpy(decoded.sizes[part][readable]),
                torch.from_numpy(decoded.items[part][readable]),
            )
            self._last = self._compute.arrange(self._views(batch, seed=0, epoch=0, views=[0])[0])
            autocast = torch.bfloat16 if self._compute.bf16 else None
            vectors = embed(self._encoder, [self._last], device=device, autocast=autocast)
        sizes = decoded.sizes[part].tolist()
        write_part(
            parts,
            number,
            vectors,
            [(t[0], "", *sizes[at], t[1], t[2]) for at, t in enumerate(told) if not reasons[at]],
            [(t[0], reasons[at], t[1], t[2]) for at, t in enumerate(told) if reasons[at]],
        )


@dataclass(frozen=True, eq=False)
class _Pixels:
    """items (n,); values (n, H, W, C); sizes (n, 2); told: id, content, stamp; reasons, "" where it could be read."""

    items: NDArray[np.int64]
    values: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    told: list[tuple[str, str, str]]
    reasons: list[str]
