"""What is handed over in Python: tensors, lists, data sets of torch."""

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.tv_tensors import Image as TensorImage

from twoviews.data.decoding.decode import Unreadable, decode
from twoviews.data.keys import content_of
from twoviews.data.source import Source, open_source
from twoviews.errors import DataError, UsageError


def ids(source: Source) -> list[str]:
    return [source[i].id for i in range(len(source))]


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class Pairs(Dataset[Any]):
    """Items of (image, label), which counts how often each is read."""

    def __init__(self, items: list[Any], **known: Any) -> None:
        self.items = items
        self.reads = [0] * len(items)
        self.__dict__.update(known)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.reads[index] += 1
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


# Tensors and lists


def test_a_tensor_has_its_channels_moved_without_a_copy() -> None:
    images = torch.from_numpy(noise(3, 13, 20, 24))
    source = open_source(images)
    read = source[2].read()
    assert read.shape == (20, 24, 13)
    assert (read == images[2].permute(1, 2, 0).numpy()).all()
    assert np.shares_memory(read, images.numpy())
    assert source.spec == "tensor (3, 13, 20, 24)"
    assert open_source(images[:, 0])[0].read().shape == (20, 24, 1)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int16", "uint16", "int32", "int64", "bfloat16"])
def test_tensors_of_any_real_type(kind: str) -> None:
    values = torch.arange(2 * 9 * 9).reshape(2, 1, 9, 9).to(getattr(torch, kind)).requires_grad_("float" in kind)
    read = open_source((values, torch.tensor([4, -1])))[1].read()
    assert read.dtype == np.dtype("float32" if kind == "bfloat16" else kind)
    assert (read[..., 0].astype(float) == values[1, 0].double().detach().numpy()).all()
    assert list(open_source((values, torch.tensor([4, -1]))).labels) == ["4", None]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), r"if they come last, use images\.permute\(0, 3, 1, 2\)"),
        (torch.zeros(2, 33, 8, 8, dtype=torch.uint8), "33 channels: 1 to 32"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.bool), "holds bool"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), "holds complex64"),
        (torch.zeros(2, 3, 8, 8, device="meta"), "tensor of torch.float32 cannot be turned into an array"),
        (torch.zeros(8, 8), r"shape \(8, 8\)"),
    ],
)
def test_tensors_that_are_no_images(tensor: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(tensor)


def test_a_sparse_and_a_subclassed_tensor() -> None:
    dense = torch.from_numpy(noise(2, 1, 9, 9))
    assert (open_source(dense.to_sparse())[1].read()[..., 0] == dense[1, 0].numpy()).all()
    assert (open_source(TensorImage(dense))[1].read()[..., 0] == dense[1, 0].numpy()).all()


def test_lists_of_images_and_of_numbers(picture: Callable[..., Any]) -> None:
    pictures = [picture(0), noise(5, 6, 3), torch.from_numpy(noise(3, 7, 9))]
    source = open_source((pictures, ["a", None, "c"]))
    assert [decode(source[i].read()).shape for i in range(3)] == [(10, 12, 3), (5, 6, 3), (7, 9, 3)]
    assert list(source.labels) == ["a", None, "c"]
    assert list(open_source(pictures).labels) == [None] * 3
    numbers = noise(2, 4, 4)
    read = open_source((numbers.tolist(), [0, 1]))[1].read()
    assert read.dtype == np.uint8
    assert (read[..., 0] == numbers[1]).all()


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (7, UsageError, "cannot read data from int"),
        (None, UsageError, "cannot read data from NoneType"),
        ({"images": 3}, UsageError, "cannot read data from dict"),
        (b"x", UsageError, "cannot read data from bytes"),
        (list, UsageError, "cannot read data from type"),
        ([], UsageError, "cannot read data from an empty list"),
        ((1, 2, 3), UsageError, "got 3 parts"),
        ((7, [1]), UsageError, "cannot read data from int in a tuple"),
        ([noise(2, 8, 8, 3), noise(2)], DataError, r"no list of images, the first is shape \(2, 8, 8, 3\).*a tuple"),
        (([[[1, 2]], [[3]]], None), DataError, "its parts differ in shape"),
        ((noise(2, 8, 8), [1]), DataError, r"labels have shape \(1,\)"),
        (([noise(8, 8)], [1, 2]), DataError, r"1 images, but labels have shape \(2,\)"),
    ],
)
def test_things_that_hold_no_images(spec: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        open_source(spec)


def test_torch_is_not_imported_for_arrays() -> None:
    code = (
        "import sys, numpy as np\n"
        "from twoviews.data.source import open_source\n"
        "assert len(open_source((np.zeros((2, 4, 4), np.uint8), [0, 1]))) == 2\n"
        "class Mine:\n"
        "    def __len__(self): return 2\n"
        "    def __getitem__(self, index): return np.zeros((4, 4), np.uint8), index\n"
        "assert list(open_source(Mine()).labels) == ['0', '1']\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Data sets


def test_items_of_every_kind(picture: Callable[..., Any]) -> None:
    items = [
        (picture(1), "cat"),
        (noise(5, 6), -1),
        (torch.from_numpy(noise(4, 8, 9)), torch.tensor(7)),
        {"img": noise(5, 6, 3), "label": np.int64(2)},
        {"image": picture(2)},
        noise(4, 4, 13),
    ]
    source = open_source(Pairs(items))
    assert ids(source) == list("012345")
    assert list(source.labels) == ["cat", None, "7", "2", None, None]
    shapes = [np.shape(source[i].read()) for i in range(6)]
    assert shapes == [(10, 12, 3), (5, 6), (8, 9, 4), (5, 6, 3), (10, 12, 3), (4, 4, 13)]


def test_known_labels_cost_no_reading() -> None:
    images = noise(20, 6, 6)
    items = [(image, i % 2) for i, image in enumerate(images)]
    for known in (
        {"targets": [i % 2 for i in range(20)]},
        {"labels": np.arange(20) % 2},
        {"targets": torch.arange(20) % 2},
    ):
        data = Pairs(items, classes=["ape", "zebra"], **known)
        source = open_source(data)
        assert list(source.labels) == ["ape", "zebra"] * 10
        assert sum(data.reads) == 1  # the first, to see that they agree
        assert source[3].label == "zebra"
        assert sum(data.reads) == 1


def test_unknown_labels_are_read_for_no_question_of_kind() -> None:
    data = Pairs([(image, i) for i, image in enumerate(noise(3, 6, 6))])
    source = open_source(data)
    before = list(data.reads)
    assert open_source(source) is source
    assert data.reads == before


def test_unknown_labels_are_found_as_items_are_read() -> None:
    data = Pairs([(image, i) for i, image in enumerate(noise(3, 6, 6))], classes=["x", "y", "z"])
    source = open_source(data)
    assert [(source[i].label, source[i].read().shape) for i in range(3)] == [
        ("x", (6, 6)),
        ("y", (6, 6)),
        ("z", (6, 6)),
    ]
    before = list(data.reads)
    assert list(source.labels) == ["x", "y", "z"]
    assert data.reads == before


@pytest.mark.parametrize(
    "known",
    [
        {"targets": [1, 0, 1]},  # not what the items say
        {"labels": ["a", "b"]},  # names of classes
        {"targets": [[1], [2], [3]]},
        {"targets": [0.5, 1.5, 2.5]},
    ],
)
def test_lists_that_are_not_the_labels(known: dict[str, Any]) -> None:
    source = open_source(Pairs([(image, i) for i, image in enumerate(noise(3, 6, 6))], **known))
    assert list(source.labels) == ["0", "1", "2"]


def test_numbers_beyond_the_classes_stay_numbers_where_all_are_known() -> None:
    items = [(image, i) for i, image in enumerate(noise(3, 6, 6))]
    assert list(open_source(Pairs(items, targets=[0, 1, 2], classes=["a", "b"])).labels) == ["0", "1", "2"]
    with pytest.raises(DataError, match=r"item '2' has label 2, which is not among its 2 classes"):
        list(open_source(Pairs(items, classes=["a", "b"])).labels)


def test_transformed_targets_are_the_labels() -> None:
    items = [(image, "even" if i % 2 == 0 else "odd") for i, image in enumerate(noise(4, 6, 6))]

    def name(target: int) -> str:
        return "even" if target % 2 == 0 else "odd"

    data = Pairs(items, targets=[0, 1, 2, 3], classes=["a", "b", "c", "d"], target_transform=name)
    assert list(open_source(data).labels) == ["even", "odd", "even", "odd"]
    assert sum(data.reads) == 1


def test_subsets_of_subsets_keep_ids_and_cost_nothing() -> None:
    data = Pairs([(image, i) for i, image in enumerate(noise(30, 6, 6))], targets=list(range(30)))
    part = Subset(Subset(data, list(range(29, -1, -1))), [0, 3, -1])
    source = open_source(part)
    assert ids(source) == ["00", "26", "29"]
    assert list(source.labels) == ["0", "26", "29"]
    assert sum(data.reads) == 1
    assert (source[1].read() == data.items[26][0]).all()
    with pytest.raises(DataError, match="takes 1 items twice"):
        open_source(Subset(data, [3, 3]))


def test_a_subset_with_its_own_items_is_asked() -> None:
    class Brighter(Subset[Any]):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image // 2, label

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[index] for index in indices]

    data = Pairs([(image, i) for i, image in enumerate(noise(4, 6, 6))], targets=[0, 1, 2, 3])
    source = open_source(Brighter(data, [3, 1]))
    assert ids(source) == ["1", "3"]
    assert (source[1].read() == data.items[3][0] // 2).all()


def test_tensor_and_joined_data_sets() -> None:
    first = TensorDataset(torch.from_numpy(noise(2, 3, 6, 7)), torch.tensor([3, 4]))
    source = open_source(ConcatDataset([first, TensorDataset(torch.from_numpy(noise(1, 3, 6, 7)), torch.tensor([5]))]))
    assert list(source.labels) == ["3", "4", "5"]
    assert source[2].read().shape == (6, 7, 3)


def test_image_folders_have_their_paths_as_ids(image_folder: Callable[..., Path]) -> None:
    root = image_folder({"dog": 2, "cat": 1})
    plain, handed = open_source(root), open_source(ImageFolder(str(root)))
    assert ids(handed) == ids(plain)
    assert list(handed.labels) == list(plain.labels) == ["cat", "dog", "dog"]
    assert all((decode(handed[i].read()) == decode(plain[i].read())).all() for i in range(3))
    assert ids(open_source(Subset(ImageFolder(root), [2, 0]))) == ["cat/0.png", "dog/1.png"]


def test_an_item_that_cannot_be_read_is_left_to_whoever_reads_it() -> None:
    items = [OSError("gone"), (noise(6, 6), 1), ValueError("broken")]
    source = open_source(Pairs(items))
    assert list(source.labels) == [None, "1", None]
    with pytest.raises(OSError, match="gone"):
        source[0].read()
    with pytest.raises(ValueError, match="broken"):
        source[2].read()


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield noise(4, 4)


class Unsized(Dataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return noise(4, 4)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (Endless(), UsageError, "cannot read data from Endless, which has no positions: hand over a map-style"),
        (Unsized(), UsageError, "cannot read data from Unsized: .*__len__ and __getitem__"),
        (DataLoader(TensorDataset(torch.zeros(2, 3, 8, 8))), UsageError, r"from DataLoader: hand over its \.dataset"),
        (Pairs([]), DataError, "Pairs of 0 items holds no image"),
        (
            Pairs([3]),
            UsageError,
            "cannot read data from Pairs: its first item is a int where an image belongs; an item",
        ),
        (Pairs([{"pixels": 1}]), UsageError, "its first item is a dict without image or img, only pixels"),
        (Pairs([noise(2, 3, 8, 8)]), UsageError, r"its first item is shape \(2, 3, 8, 8\): an image has two or three"),
        (Pairs([noise(3, 32, 32)]), UsageError, r"channels come last in arrays: transpose\(1, 2, 0\)"),
        (Pairs([torch.zeros(32, 32, 3)]), UsageError, r"channels come first in tensors: permute\(2, 0, 1\)"),
        (
            Pairs([(noise(4, 4), {"boxes": []})]),
            DataError,
            "its first item has a label of type dict: give whole numbers",
        ),
        (Pairs([(noise(4, 4), 0.5)]), DataError, "its first item has a label of type float"),
        (Pairs([(noise(4, 4), torch.zeros(4, dtype=torch.int64))]), DataError, "a label of type Tensor"),
        (Pairs([(noise(4, 4), 1), (noise(4, 4), [2])]), DataError, "item '1' has a label of type list"),
    ],
)
def test_data_sets_that_cannot_be_used(data: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        list(open_source(data).labels)


def test_items_are_asked_for_by_one_thread_at_a_time() -> None:
    class Fragile(Pairs):
        inside = 0
        most = 0

        def __getitem__(self, index: int) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            threading.Event().wait(0.002)
            self.inside -= 1
            return super().__getitem__(index)

    data = Fragile([(image, i) for i, image in enumerate(noise(16, 6, 6))])
    source = open_source(data)
    threads = [threading.Thread(target=lambda at=at: source[at].read()) for at in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert data.most == 1


def test_pillow_images_are_given_as_they_are() -> None:
    image = Image.new("I;16", (4, 4), 300)
    assert open_source(Pairs([image]))[0].read() is image


@pytest.mark.parametrize("known", [False, True])
def test_the_depth_of_pillow_images_is_told_before_anything_loads_them(known: bool) -> None:
    """Of 16 bits a channel, Pillow keeps the upper 8, and once the image is loaded it is an 8-bit one to anybody."""
    image = Image.open(io.BytesIO(b"P6 4 4 65535\n" + bytes(range(96))))
    source = open_source([image] if known else Pairs([image]))
    for _ in range(2):
        with pytest.raises(Unreadable, match="16 bits a channel"):
            content_of(source[0].read())
    grey = Image.open(io.BytesIO(b"P5 4 4 65535\n" + bytes(range(32))))
    assert open_source([grey])[0].read() is grey


@pytest.mark.parametrize("work", [decode, content_of])
def test_an_image_that_occurs_twice_is_loaded_once(
    work: Callable[[Any], Any], encoded: Callable[..., bytes], picture: Callable[..., Any]
) -> None:
    data = encoded(picture(1))
    image = Image.open(io.BytesIO(data))
    load, loads = image.load, []

    def slow() -> Any:
        if image.tile:
            loads.append(threading.get_ident())
            time.sleep(0.05)
        return load()

    image.load = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, [image] * 4))
    assert len(loads) == 1
    assert all(np.array_equal(result, work(Image.open(io.BytesIO(data)))) for result in results)
