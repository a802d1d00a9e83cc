"""The laboratory of the diagnostics: a classifier, some images, and attacks on them, each made once."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ironclip import attacks
from ironclip.core.tensors import keyed_uniform, norm, project
from ironclip.core.threat import Norm
from ironclip.core.types import Classifier, Images

POINT = 0.01


@dataclass(frozen=True)
class Outcome:
    """Attacked images [B, ...] and whether the classifier still gets each right [B]."""

    adv: Tensor
    right: Tensor
    seconds: float

    @property
    def accuracy(self) -> float:
        return float(self.right.double().mean())


@dataclass
class Lab:
    """The classifier, images and attacks that the diagnostics share.

    Args:
        classifier: what is audited; images are scored by it.
        attacked: what attacks differentiate: the classifier, or its mean over draws where it is random.
        images, labels, indices: [B, ...] images that the classifier gets right, on its device.
        wrong: the same three for some images it gets wrong; may be empty.
        steps: of the strong attack; the sheet's PGD-100. norm: of every attack.
        sources: undefended or other classifiers on which transfer images are made.
        base: what a test-time method stands on.
        reported: predictions for `images` in the evaluation that is reported.
        gradients: False: the classifier gives scores only.
    """

    classifier: Classifier
    attacked: Images
    images: Tensor
    labels: Tensor
    indices: Tensor
    wrong: tuple[Tensor, Tensor, Tensor]
    eps: float
    steps: int = 100
    seed: int = 0
    batch_size: int = 50
    draws: int = 1
    norm: Norm = "linf"
    sources: Sequence[Classifier] = ()
    base: Classifier | None = None
    reported: Tensor | None = None
    knowledge: str = "white-box"
    gradients: bool = True
    worst: dict[str, float] = field(default_factory=lambda: {"excess": 0.0, "outside": 0.0, "finite": 1.0, "images": 0.0})
    made: dict[str, Outcome] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def queries(self) -> int:
        """Of attacks on scores: AutoAttack's 5000 where the strong attack has 100 steps, fewer in proportion."""
        return max(100, min(5000, 50 * self.steps))

    @property
    def classes(self) -> int:
        return len(self.classifier.classes)

    def slack(self, points: float) -> float:
        """A difference of accuracies that counts: so many points, but at least more than one image (plus rounding)."""
        return max(points * POINT, 1 / max(len(self), 1)) + 1e-9

    def logits(self, images: Tensor, function: Images | None = None) -> Tensor:
        with torch.no_grad():
            parts = [(function or self.classifier)(part).float() for part in images.split(self.batch_size)]
        return torch.cat(parts) if parts else images.new_zeros(0, self.classes)

    def right(self, adv: Tensor, labels: Tensor) -> Tensor:
        return self.logits(adv).argmax(1) == labels

    def random_start(self, restart: int = 0) -> Tensor:
        noise = keyed_uniform(self.images.shape[1:], self.seed, self.indices.tolist(), restart, device=self.images.device).to(
            self.images
        )
        return project(self.images + self.eps * noise, self.images, self.eps, self.norm)

    @property
    def pixel(self) -> float:
        """How far one pixel moves at the radius where all move alike."""
        count: int = self.images[0].numel()
        return self.eps if self.norm == "linf" else self.eps / math.sqrt(count)

    def attack(self, name: str, *, eps: float | None = None, on: Images | None = None, **options: Any) -> Outcome:
        """The images attacked, made once for each name, radius and options.

        Args:
            eps: default: that of the audit.
            on: the function that is differentiated; default `attacked`.
        """
        eps = self.eps if eps is None else eps
        key = repr((name, eps, sorted(options.items()), None if on is None else id(on)))
        if key not in self.made:
            self.made[key] = self.attack_these(name, (self.images, self.labels, self.indices), eps=eps, on=on, **options)
        return self.made[key]

    def attack_these(
        self,
        name: str,
        these: tuple[Tensor, Tensor, Tensor],
        *,
        eps: float | None = None,
        on: Images | None = None,
        **options: Any,
    ) -> Outcome:
        """Any images attacked: (images, labels, indices)."""
        eps = self.eps if eps is None else eps
        attack = attacks.build(name, eps=eps, norm=self.norm, seed=self.seed, **options)
        start = time.perf_counter()
        images, labels, indices = these
        size = self.batch_size
        adv = [
            attack(on or self.attacked, images[at : at + size], labels[at : at + size], indices=indices[at : at + size]).detach()
            for at in range(0, len(images), size)
        ]
        made = torch.cat(adv) if adv else images
        self._inspect(made, images, eps)
        return Outcome(made, self.right(made, labels), time.perf_counter() - start)

    def pgd(self, *, eps: float | None = None, steps: int | None = None, restarts: int = 1, loss: str = "ce") -> Outcome:
        """The strong gradient attack: keeps the best point, drops broken images."""
        return self.attack(
            "pgd", eps=eps, steps=self.steps if steps is None else steps, restarts=restarts, loss=loss, mode="compact"
        )

    def white_box(self) -> Tensor:
        """[B] right under PGD with cross-entropy and with the margin loss."""
        return self.pgd().right & self.pgd(loss="margin").right

    def _inspect(self, adv: Tensor, images: Tensor, eps: float) -> None:
        if not len(adv):
            return
        worst = self.worst
        slack = 0 if self.norm == "linf" else 1e-5 * eps  # a Euclidean norm sums thousands of rounding errors
        worst["excess"] = max(worst["excess"], float(norm(adv - images, self.norm).amax()) - eps - slack)
        worst["outside"] = max(worst["outside"], float(-adv.amin()), float(adv.amax()) - 1)
        worst["finite"] = min(worst["finite"], float(adv.isfinite().all()))
        worst["images"] += len(adv)
