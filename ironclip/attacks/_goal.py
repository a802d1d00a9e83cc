"""The objective of an ascent, and the best point found so far, for each image of a batch."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.core import losses
from ironclip.core.errors import UsageError
from ironclip.core.tensors import require_finite
from ironclip.core.types import Images, Loss

LossName = Literal["ce", "margin", "dlr", "kl"]
Mode = Literal["full", "compact"]
SearchDtype = Literal["float32", "bfloat16"]


TARGETED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda logits, labels, targets: -losses.cross_entropy_each(logits, targets),
    "margin": lambda logits, labels, targets: (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1),
    "dlr": losses.targeted_dlr_each,
}
"""Losses that rise towards one wrong class: (logits [B, K], labels [B], targets [B]) -> [B]."""


class Goal:
    """The objective per image: goal(rows) maps the outputs of these rows of the batch to values [len(rows)].

    Args:
        targeted: lower the loss towards `labels` instead.
        targets: [B] wrong classes to move towards, away from `labels`.
    """

    def __init__(self, loss: LossName | Loss, labels: Tensor, targeted: bool, targets: Tensor | None = None) -> None:
        self.loss, self.labels, self.sign, self.targets = loss, labels, -1.0 if targeted else 1.0, targets
        self.top_label = int(labels.max())
        self.clean: Tensor | None = None

    def __call__(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        return partial(self._values, rows=rows)

    def _values(self, outputs: Tensor, rows: Tensor) -> Tensor:
        if callable(self.loss):
            values = self.loss(outputs, self.labels[rows])
            if values.shape != rows.shape:
                raise UsageError(f"loss must return one value for each of {len(rows)} images; got shape {tuple(values.shape)}")
        elif self.loss == "kl":
            inputs.check_logits(outputs, len(rows), 0)
            assert self.clean is not None
            values = losses.kl_each(outputs, self.clean[rows])
        else:
            inputs.check_logits(outputs, len(rows), self.top_label)
            if self.targets is None:
                values = losses.ATTACK_LOSSES[self.loss](outputs, self.labels[rows])
            else:
                values = TARGETED[self.loss](outputs, self.labels[rows], self.targets[rows])
        return self.sign * values


class Best:
    """Per image the best point: misclassified points first, then the higher loss, then the later point."""

    def __init__(self, images: Tensor, labels: Tensor | None, targeted: bool) -> None:
        self.adv, self.labels, self.targeted = images.clone(), labels, targeted
        self.values = torch.full((len(images),), -torch.inf, device=images.device, dtype=images.dtype)
        self.fooled = torch.zeros(len(images), device=images.device, dtype=torch.bool)

    def offer(self, rows: Tensor, names: Tensor, adv: Tensor, outputs: Tensor, values: Tensor) -> None:
        require_finite("the loss", values.isfinite(), names)
        fooled = torch.zeros_like(self.fooled[rows])
        if self.labels is not None:
            fooled = (outputs.argmax(1) == self.labels[rows]) == self.targeted
        self.take(rows, adv, values, fooled)

    def take(self, rows: Tensor, adv: Tensor, values: Tensor, fooled: Tensor) -> None:
        """Take over the results for these rows, each row once."""
        held, before = self.values[rows], self.fooled[rows]
        better = (fooled & ~before) | ((fooled == before) & (values >= held))
        chosen = rows[better]
        self.adv[chosen], self.values[chosen], self.fooled[chosen] = adv[better], values[better].to(held), fooled[better]


class Part:
    """Some images with all their targets: row t * B + i of a climb is image i on its way to target t.

    Args:
        confirm: the function itself, where the ascent uses a less precise one; it decides which points are misclassified.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        names: Tensor,
        clean: Tensor,
        wanted: Tensor | None,
        loss: LossName | Loss,
        confirm: Images | None = None,
    ) -> None:
        self.confirm = confirm
        self.count = 1 if wanted is None else len(wanted)
        self.images, self.labels, self.names = (torch.cat([part] * self.count) for part in (images, labels, names))
        self.goal = Goal(loss, self.labels, False, None if wanted is None else wanted.flatten())
        self.goal.clean = torch.cat([clean] * self.count)
        self.best = Best(self.images, None if callable(loss) or loss == "kl" else self.labels, False)

    def values(self, outputs: Tensor, rows: Tensor) -> Tensor:
        return self.goal(rows)(outputs)

    def observe(self, rows: Tensor, adv: Tensor, outputs: Tensor, values: Tensor) -> None:
        outputs = confirmed(self.confirm, adv, outputs, self.labels[rows])
        # Losses towards different targets have no common scale.
        merits = values if self.goal.targets is None else losses.margin_each(outputs, self.labels[rows])
        self.best.offer(rows, self.names[rows], adv, outputs, merits)

    def going(self, rows: Tensor) -> Tensor:
        """The rows of images that no target has broken yet."""
        broken = self.best.fooled.view(self.count, -1).any(0)
        return ~broken.repeat(self.count)[rows]

    def found(self, target: int) -> tuple[Tensor, Tensor, Tensor]:
        size = len(self.images) // self.count
        rows = slice(target * size, (target + 1) * size)
        return self.best.adv[rows], self.best.values[rows], self.best.fooled[rows]


def scores(function: Images, images: Tensor) -> Tensor:
    with torch.no_grad():
        return function(images)


def coarse(function: Images, dtype: SearchDtype) -> Images:
    """The function in this precision, with float32 outputs: for a search only, never for a result.

    Our classifiers keep normalisation and head in float32; any other function runs under autocast.
    """
    if dtype == "float32":
        return function
    if hasattr(function, "precision"):
        twin = copy.copy(function)
        twin.precision = dtype
        return twin

    def rounded(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return function(images).to(images.dtype)

    return rounded


def confirmed(confirm: Images | None, adv: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    """The outputs, with misclassified rows replaced by those of `confirm`, which has the last word."""
    if confirm is None or not (found := outputs.argmax(1) != labels).any():
        return outputs
    outputs = outputs.clone()
    outputs[found] = scores(confirm, adv[found]).to(outputs)
    return outputs


def clean_logits(function: Images, images: Tensor, labels: Tensor, names: Tensor) -> Tensor:
    """[B, K] logits of the images themselves, for an attack that needs a classifier.

    Raises:
        UsageError, DataError: these are no logits of at least two classes, all labels among them.
        NonFinite: NaN or infinite logits; `names` [B] are the images' dataset positions.
    """
    logits = scores(function, images)
    inputs.check_logits(logits, len(images), int(labels.max()))
    require_finite("the output", logits.isfinite().all(1), names)
    return logits


def ranked_targets(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """[T, B] wrong classes by falling clean logit, T = min(count, K - 1); for a correct image the first is the second-best
    class."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.sort(dim=1, descending=True, stable=True).indices[:, : min(count, logits.shape[1] - 1)].T
