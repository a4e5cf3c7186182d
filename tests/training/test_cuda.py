"""What only a GPU can show: `make test-gpu`."""

import pytest
import torch

from twoviews.encoders import build_encoder
from twoviews.losses import nt_xent, queue_info_nce
from twoviews.methods import SimCLR
from twoviews.training.large_batch import accumulate_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_losses_are_those_of_the_cpu(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 5000, 128, generator=generator)
    for loss in (nt_xent, lambda a, b, temperature: queue_info_nce(a, b, z[2].to(a), temperature=temperature)):
        on_cpu = [view.clone().requires_grad_() for view in z[:2]]
        on_gpu = [view.cuda().requires_grad_() for view in z[:2]]
        values = [loss(*views, temperature=temperature) for views in (on_cpu, on_gpu)]
        assert values[1].item() == pytest.approx(values[0].item(), rel=1e-5)
        gradients = [
            torch.cat(torch.autograd.grad(v, views)) for v, views in zip(values, (on_cpu, on_gpu), strict=True)
        ]
        assert (gradients[1].cpu() - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_the_loss_waits_for_nothing() -> None:
    z_a, z_b = torch.randn(2, 3000, 128, device="cuda").requires_grad_()
    nt_xent(z_a, z_b, temperature=0.5).backward()  # first use of kernels may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        nt_xent(z_a, z_b, temperature=0.5).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("bf16", [False, True])
def test_micro_batches(bf16: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(256, 3, 32, 32, generator=generator).cuda() for _ in range(2)]
    gradients = []
    for micro_batch in (None, 64):
        torch.manual_seed(0)
        method = SimCLR(build_encoder("resnet_mini", image_size=32, channels=3, stem="small"), temperature=0.2).cuda()
        accumulate_gradients(
            method,
            lambda rows: [view[rows] for view in views],
            count=256,
            bn_group=64,
            micro_batch=micro_batch,
            autocast=lambda: torch.autocast("cuda", torch.bfloat16, enabled=bf16),
        )
        gradients.append([p.grad for p in method.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= (2e-2 if bf16 else 1e-4) * one.norm()
