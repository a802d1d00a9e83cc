"""What an ascent raises, and the best point that it has seen, for each image of a batch."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ironclip import losses
from ironclip.attacks import inputs
from ironclip.errors import UsageError
from ironclip.tensors import require_finite
from ironclip.types import Images, Loss

LossName = Literal["ce", "margin", "dlr", "kl"]
Mode = Literal["full", "compact"]


class Goal:
    """What is raised, per image: goal(rows) maps the outputs of these rows of the batch to values [len(rows)]."""

    def __init__(self, loss: LossName | Loss, labels: Tensor, targeted: bool) -> None:
        self.loss, self.labels, self.sign = loss, labels, -1.0 if targeted else 1.0
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
            values = losses.ATTACK_LOSSES[self.loss](outputs, self.labels[rows])
        return self.sign * values


class Best:
    """Per image the best point offered: a fooling one before any other, then the higher loss, then the later one."""

    def __init__(self, images: Tensor, labels: Tensor | None, targeted: bool) -> None:
        self.adv, self.labels, self.targeted = images.clone(), labels, targeted
        self.values = torch.full((len(images),), -torch.inf, device=images.device, dtype=images.dtype)
        self.fooled = torch.zeros(len(images), device=images.device, dtype=torch.bool)

    def offer(self, rows: Tensor, names: Tensor, adv: Tensor, outputs: Tensor, values: Tensor) -> None:
        require_finite("the loss", values.isfinite(), names)
        fooled = torch.zeros_like(self.fooled[rows])
        if self.labels is not None:
            fooled = (outputs.argmax(1) == self.labels[rows]) == self.targeted
        held, before = self.values[rows], self.fooled[rows]
        better = (fooled & ~before) | ((fooled == before) & (values >= held))
        chosen = rows[better]
        self.adv[chosen], self.values[chosen], self.fooled[chosen] = adv[better], values[better].to(held), fooled[better]


def scores(function: Images, images: Tensor) -> Tensor:
    with torch.no_grad():
        return function(images)
