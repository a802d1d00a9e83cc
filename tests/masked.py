"""Classifiers whose gradients are masked on purpose, each in one known way, and a plain one, all on tiny images."""

import torch
from torch import Tensor, nn
from toys import convnet, pictures, predicted

from ironclip.audit.lab import Lab

NAMES = tuple("abcde")


class Plain(nn.Module):
    """A small smooth network."""

    classes = NAMES

    def __init__(self) -> None:
        super().__init__()
        self.net = convnet()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class QuantisedActivations(Plain):
    """Rounds a hidden layer, with a straight-through gradient."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.net[:4](images)
        coarse = (hidden * 3).round() / 3
        return self.net[4:](hidden + (coarse - hidden).detach())


class RoundedPixels(Plain):
    """Rounds the pixels; nothing flows back."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images * 16).round() / 16 + 0 * images)


class TinyScale(Plain):
    """Logits so small that half precision rounds the gradient away."""

    def forward(self, images: Tensor) -> Tensor:
        return (self.net(images) * 1e-7).half().float() + 0 * images.mean()


class HugeScale(Plain):
    """Logits so large that cross-entropy is saturated."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) * 1e4


class DetachedBranch(Plain):
    """Decides by a branch that is cut off; the gradient comes from another network."""

    def __init__(self) -> None:
        super().__init__()
        self.decoy = convnet(seed=9)

    def forward(self, images: Tensor) -> Tensor:
        weak = self.decoy(images)
        return self.net(images).detach() + 1e-3 * weak


class RandomCrop(Plain):
    """Shifts the image by a random pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        shift = torch.randint(0, 2, (2,), generator=self.draw).tolist()
        return self.net(images.roll(shift, (2, 3)))


class Probabilities(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(1)


class BatchStatistics(Plain):
    """Centres each pixel by its mean over the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images - images.mean(0) + 0.5)


class GradientInside(Plain):
    """Moves the image a little against its own uncertainty before it decides."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(leaf).logsumexp(1).sum(), leaf)
        return self.net(images + 1e-3 * slope.sign())


class LabelReader(Plain):
    """A test-time rule made for attacks on its base: a picture off the 8-bit grid was attacked, so the answer is what the base
    finds least likely. Attacks on the base lower the true class below all others: the rule reads the label off them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.base = Plain()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.base(images)
        attacked = ((images * 255).round() / 255 - images).abs().flatten(1).amax(1) > 1e-5
        return torch.where(attacked[:, None], -logits, logits)


def lab(classifier: nn.Module, *, eps: float = 0.03, steps: int = 20, many: int = 40, **options) -> Lab:
    """A bench of images labelled by the plain network, every `mislabel`-th one wrongly."""
    images = (pictures(many) * 255).round() / 255
    labels = predicted(Plain().eval(), images)
    labels[:: options.pop("mislabel", many)] += 1
    labels %= 5
    classifier.eval()
    right = predicted(classifier, images) == labels
    indices = torch.arange(many)
    these = [(images[rows], labels[rows], indices[rows]) for rows in (right, ~right)]
    return Lab(classifier, options.pop("attacked", classifier), *these[0], these[1], eps, steps=steps, **options)
