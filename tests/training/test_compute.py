"""What a machine is used for, and what of another machine's run is kept on it."""

from collections.abc import Iterator

import pytest
import torch

from twoviews import compute
from twoviews.compute import choose_compute, choose_compute_as
from twoviews.errors import UsageError
from twoviews.narrate import Narrator

ABSENT = "cuda:63"


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compute, "available_cores", lambda: 2)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("trained_with", "here"), [(16, 2), (2, 2), (1, 1), (None, 2)])
def test_a_run_of_a_larger_machine_gets_no_more_threads_than_cores(trained_with: int | None, here: int) -> None:
    found = choose_compute_as(precision="fp32", threads=trained_with, device="cpu", narrator=Narrator())
    assert found.threads == torch.get_num_threads() == here


def test_threads_that_a_training_asks_for_stay() -> None:
    assert choose_compute(device="cpu", precision="fp32", threads=3, narrator=Narrator()).threads == 3


def test_a_device_that_is_not_here_is_refused_for_training_and_replaced_for_reading() -> None:
    with pytest.raises(UsageError, match=r"'cuda:63' cannot be used: .*train\.device=cpu"):
        choose_compute(device=ABSENT, precision="fp32", threads=1, narrator=Narrator())
    found = choose_compute_as(precision="fp32", threads=1, device=ABSENT, narrator=Narrator())
    assert found.device.type != "cuda" or torch.cuda.is_available()


def test_the_precision_of_a_run_stays() -> None:
    assert choose_compute_as(precision="bf16", threads=1, device="cpu", narrator=Narrator()).bf16


def test_the_gpu_is_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H100 {device.index}")
    assert compute.gpu_name(torch.device("cuda:1")) == "NVIDIA H100 1"
    assert compute.gpu_name(torch.device("cpu")) is None


def test_tf32_is_what_torch_is_set_to() -> None:
    assert compute.tf32(torch.device("cpu")) is None
    assert compute.tf32(torch.device("cuda")) == {"convolutions": True, "matrix_products": False}
    flags = torch.backends.cuda.matmul
    before = flags.fp32_precision
    flags.fp32_precision = "tf32"
    try:
        assert compute.tf32(torch.device("cuda")) == {"convolutions": True, "matrix_products": True}
    finally:
        flags.fp32_precision = before
