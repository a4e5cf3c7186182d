"""A linear probe that is trained beside the method, on the labelled samples of each batch; the encoder never feels it.

As in the Keras example "Semi-supervised image classification using contrastive pretraining with SimCLR": the encoder in
evaluation mode, weakly augmented images, Adam.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VIEW = 1 << 20
"""The number of the probe's view: no view of a method has it, so its draws are its own."""


class OnlineProbe(nn.Module):
    """h (B, num_features) to logits (B, classes); `optimizer` is its own.

    >>> probe = OnlineProbe(4, classes=3)
    >>> sorted(probe.learn(torch.zeros(2, 4), torch.tensor([0, 1])))
    ['probe_accuracy', 'probe_loss']
    """

    def __init__(self, features: int, *, classes: int, lr: float = 1e-3, eps: float = 1e-8) -> None:
        super().__init__()
        self.head = nn.Linear(features, classes)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr, eps=eps)

    def forward(self, h: Tensor) -> Tensor:
        logits: Tensor = self.head(h.float())
        return logits

    def learn(self, h: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update on features (B, D) and labels (B,); its loss and accuracy before it."""
        logits = self(h.detach())
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        right = (logits.detach().argmax(1) == labels).float().mean()
        return {"probe_loss": loss.detach(), "probe_accuracy": right}
