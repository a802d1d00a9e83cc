"""The network behind most of the zoo, its training on `shapes`, and the bench on which a classifier is audited."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ironclip.attacks.eot import EOT
from ironclip.audit.faults import External, check_target
from ironclip.audit.forward import RANDOM, spread
from ironclip.audit.lab import Lab
from ironclip.core.tensors import evaluating, frozen
from ironclip.data import shapes

SIDE, EPS = 32, 4 / 255


class PatchNet(nn.Module):
    """Patches of 4 x 4 pixels, two convolutions and a linear layer: images [B, 3, 32, 32] -> logits [B, 30]."""

    def __init__(self, classes: int = 30, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.GELU())
            self.body = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU(),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.GELU(),
            )  # fmt: skip
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(2 * width * (SIDE // 8) ** 2, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(2 * images - 1)))


def pictures(split: str, count: int, first: int = 0, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """([count, 3, side, side] in [0, 1], [count] labels) of `shapes`."""
    drawn = [shapes.draw(split, index, size=side) for index in range(first, first + count)]
    images = torch.stack([torch.from_numpy(np.asarray(picture, dtype=np.float32)) for picture, _, _ in drawn])
    return images.permute(0, 3, 1, 2).contiguous() / 255, torch.tensor([label for _, label, _ in drawn])


def trained(network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, eps: float, seed: int = 0) -> nn.Module:
    """The network after training on images attacked by two steps of PGD (eps 0: on the images), in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout, so that every process audits the same networks
        return _trained(network, images, labels, epochs, eps)


def _trained(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, eps: float) -> nn.Module:
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    rows = epochs * -(-len(images) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=rows)
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(100):
            seen, wanted = images[part], labels[part]
            moved = seen
            for _ in range(2 if eps else 0):
                leaf = moved.clone().requires_grad_()
                (slope,) = torch.autograd.grad(nn.functional.cross_entropy(network.eval()(leaf), wanted), leaf)
                moved = (seen + (moved + 0.7 * eps * slope.sign() - seen).clamp(-eps, eps)).clamp(0, 1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network.train()(moved), wanted).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@dataclass(frozen=True)
class Bench:
    """The images that are audited and networks to build classifiers on.

    Args:
        robust, plain: trained with and without attacks; another: a second plain one, as a decoy.
        train: other images with their labels.
    """

    images: Tensor
    labels: Tensor
    robust: nn.Module
    plain: nn.Module
    another: nn.Module
    train: tuple[Tensor, Tensor]
    eps: float = EPS
    steps: int = 100
    many: int = 256

    @property
    def classes(self) -> tuple[str, ...]:
        return shapes.CLASSES


def make_bench(many: int = 256, steps: int = 100, epochs: int = 12, train: int = 3000) -> Bench:
    """A bench of `many` images that the robust network gets right (about as many more are drawn as it gets wrong)."""
    seen = pictures("train", train)
    robust = trained(PatchNet(), *seen, epochs=epochs, eps=EPS)
    plain = trained(PatchNet(seed=1), *seen, epochs=max(1, epochs // 2), eps=0)
    another = trained(PatchNet(seed=2), *seen, epochs=max(1, epochs // 3), eps=0)
    return Bench(*pictures("test", 2 * many), robust, plain, another, seen, steps=steps, many=many)


def lab_of(classifier: nn.Module, bench: Bench) -> Lab:
    """What the audit would hand to its diagnostics; first looked at as any foreign classifier is.

    Raises:
        IronclipError: the first look refuses it.
    """
    target = External(classifier, bench.classes)
    with evaluating(target):
        check_target(target, bench.images[:8], bench.labels[:8], bench.classes)
        draws = 20 if spread(target, bench.images[:8])[0] > RANDOM else 1
        with torch.no_grad():
            logits = torch.cat([target(part) for part in bench.images.split(50)])
    found = logits.argmax(1)
    right = (found == bench.labels).nonzero().flatten()[: bench.many]
    wrong = (found != bench.labels).nonzero().flatten()[: max(1, bench.many // 2)]
    these = [(bench.images[rows], bench.labels[rows], rows) for rows in (right, wrong)]
    base = getattr(classifier, "base", None)
    base = None if base is None else External(base, bench.classes)
    return Lab(
        target, EOT(target, draws) if draws > 1 else target, *these[0], these[1], bench.eps, steps=bench.steps, draws=draws,
        sources=() if base is None else (base,), base=base, reported=found[torch.cat([right, wrong])],
    )  # fmt: skip


__all__ = ["Bench", "evaluating", "frozen", "lab_of", "make_bench", "pictures", "trained"]
