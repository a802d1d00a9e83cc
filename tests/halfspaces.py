"""Classifiers whose robust accuracy is known by hand, and evaluations of them."""

import torch
from torch import Tensor, nn

from ironclip.core.threat import Threat
from ironclip.core.types import Batch
from ironclip.records.record import BackboneFacts, DataFacts, Setup

EPS = 8 / 255
WHITE = Threat(eps=EPS)


class HalfSpace(nn.Module):
    """Two classes on either side of mean(x) = 1/2. The mean of an image is moved by eps at most, and by any attack worth it."""

    classes = ("dark", "light")

    def __init__(self, slope: float = 20.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images: Tensor) -> Tensor:
        light = self.slope * (images.flatten(1).mean(1) - 0.5)
        return torch.stack([-light, light], 1)


MEANS = (0.2, 0.46, 0.48, 0.49, 0.51, 0.52, 0.54, 0.8)
"""Four images, those within 8/255 = 0.0314 of one half, can be broken."""


def batches(size: int = 3, order: list[int] | None = None, wrong: tuple[int, ...] = (0,)) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.rand(len(MEANS), 3, 4, 4, generator=generator)
    images = noise - noise.mean((1, 2, 3), keepdim=True) + torch.tensor(MEANS).view(-1, 1, 1, 1)
    labels = (torch.tensor(MEANS) > 0.5).long()
    for index in wrong:
        labels[index] = 1 - labels[index]
    order = order or list(range(len(MEANS)))
    parts = [torch.tensor(order[start : start + size]) for start in range(0, len(order), size)]
    return [Batch(images[part], labels[part], part, HalfSpace.classes) for part in parts]


def setup(**changes) -> Setup:
    data = DataFacts(name="toy", classes=HalfSpace.classes)
    return Setup(**{"method": "zero_shot", "backbone": BackboneFacts(name="toy"), "data": data, "threat": WHITE} | changes)
