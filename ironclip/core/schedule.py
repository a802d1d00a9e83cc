"""How to train: optimiser, learning rate per epoch, clipping. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Literal

from ironclip.core.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """How to train. Defaults: the SGD of CoOp and its followers; the learning rate changes once per epoch.

    Args:
        lr: learning rate after the warm-up.
        warmup_epochs: epochs at the constant `warmup_lr`; the cosine is shifted by them, so it never reaches zero [code].
            Ignored where all epochs would be warm-up, because nothing would be learned [inferred].
        warmup_steps: change the rate per step instead: a linear warm-up over this many steps, then a cosine to zero at the last
            step (see `lr_at_step`). `warmup_epochs` and `warmup_lr` are then unused. None: per epoch.
        clip_norm: largest norm of the gradient of all learned tensors; None: no clipping.
    """

    epochs: int = 50
    batch_size: int = 32
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.002
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    clip_norm: float | None = None
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup_epochs"):
            value, least = getattr(self, name), 0 if name == "warmup_epochs" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} must be a whole number of at least {least}; got {value!r}")
        steps = self.warmup_steps
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 0):
            raise UsageError(f"warmup_steps must be a whole number of at least 0; got {steps!r}")
        for name in ("lr", "warmup_lr", "clip_norm"):
            value = getattr(self, name)
            if not (name == "clip_norm" and value is None) and not 0 < value < math.inf:
                raise UsageError(f"{name} must be positive; got {value}")
        if not 0 <= self.momentum < 1 or not 0 <= self.weight_decay < math.inf:
            raise UsageError(
                f"momentum must be in [0, 1) and weight_decay at least 0; got {self.momentum} and {self.weight_decay}"
            )
        if self.optimizer not in ("sgd", "adamw") or self.schedule not in ("cosine", "constant"):
            raise UsageError(f"optimizer is sgd or adamw, schedule cosine or constant; got {self.optimizer}, {self.schedule}")

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """Learning rate of step 1, 2, ... in epoch 1, 2, ..., where an epoch has `steps` optimiser steps, all passes together.

        It changes per step where `warmup_steps` is set, else per epoch.
        """
        if self.warmup_steps is None:
            return self.lr_at(epoch)
        return self.lr_at_step((epoch - 1) * steps + step - 1, self.epochs * steps)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of epoch 1, 2, ...: `warmup_lr`, then lr/2 (1 + cos(pi (epoch - 1 - warmup) / epochs))."""
        if epoch <= self.warmup_epochs and self.epochs > self.warmup_epochs:
            return self.warmup_lr
        if self.schedule == "constant":
            return self.lr
        done = max(epoch - 1 - self.warmup_epochs, 0)
        return self.lr / 2 * (1 + math.cos(math.pi * done / self.epochs))

    def lr_at_step(self, step: int, steps: int) -> float:
        """Learning rate of step 0, 1, ... of `steps`, by the step: lr (step + 1) / warmup, then lr/2 (1 + cos(pi done)).

        Source: mlfoundations/open_clip's cosine_lr, as in the codes of TeCoA, FARE, TGA-ZSR and PMG-AFT [code].
        """
        warmup = self.warmup_steps or 0
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "constant":
            return self.lr
        return self.lr / 2 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
