"""Every part of twoviews alone, in a loop of your own: data, views, encoder, head, loss, probe.

python examples/own_loop.py --data digits:train --test digits:test --steps 300
"""

import argparse

import torch
from torch import Tensor

from twoviews.data.corpus import Corpus, load_corpus
from twoviews.data.loading import batch_indices, fetch
from twoviews.encoders import Encoder, build_encoder
from twoviews.evaluation.features import embed
from twoviews.evaluation.knn import knn_predict
from twoviews.evaluation.probe import fit_probe
from twoviews.losses import nt_xent
from twoviews.methods.heads import projection_head
from twoviews.training.optim import schedule
from twoviews.views.policies import POLICIES, Views


def clean_view(corpus: Corpus, views: Views) -> Tensor:
    """One deterministic view of every sample: (N, C, S, S)."""
    batch = fetch(corpus, range(len(corpus)), device="cpu")
    return views(batch, seed=0, epoch=0, views=[0])[0]


def pretrain(encoder: Encoder, corpus: Corpus, views: Views, *, steps: int, batch_size: int) -> None:
    """SimCLR in fifteen lines."""
    head = projection_head(encoder.num_features, layers=2, width=encoder.num_features, out_features=128)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: schedule(s, steps=steps, warmup=0.1))
    for step in range(steps):
        indices = batch_indices(len(corpus), batch_size=batch_size, seed=0, step=step)
        two = views(fetch(corpus, indices, device="cpu"), seed=0, epoch=step, views=(0, 1))
        z_a, z_b = head(encoder(torch.cat(two))).chunk(2)
        loss = nt_xent(z_a, z_b, temperature=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits:train")
    parser.add_argument("--test", default="digits:test")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    train, test = load_corpus(options.data), load_corpus(options.test)
    size = train.values.shape[1]
    augmented = Views(POLICIES["digits"], image_size=size, mean=(0.5,), std=(0.5,))
    clean = Views(POLICIES["none"], image_size=size, mean=(0.5,), std=(0.5,))
    torch.manual_seed(0)
    encoder = build_encoder("convnet_tiny", image_size=size, channels=train.values.shape[3])
    pretrain(encoder, train, augmented, steps=options.steps, batch_size=min(256, len(train)))
    h_train, h_test = (embed(encoder, [clean_view(c, clean)], device="cpu") for c in (train, test))
    knn = knn_predict(h_train, train.labels, h_test, classes=10, k=20, temperature=0.07).argmax(1)
    probe = fit_probe(h_train, train.labels, classes=10, strength=0.3 / len(train)).predict(h_test)
    print(f"kNN {(knn == test.labels).mean():.3f}  linear {(probe == test.labels).mean():.3f}")


if __name__ == "__main__":
    main()
