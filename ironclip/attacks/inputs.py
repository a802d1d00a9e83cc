"""Checks of the inputs and options of every attack; a wrong value raises one clear line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import ATTACK_LOSSES
from ironclip.core.options import check_choice, check_whole
from ironclip.core.tensors import evaluating, frozen
from ironclip.core.threat import NORMS, parse_eps
from ironclip.core.types import Loss

TOLERANCE = 1e-6


@contextmanager
def borrowed(function: object, eval_mode: bool) -> Iterator[None]:
    """Inside, a module's parameters require no gradient, and it is in eval mode if wanted; both are restored afterwards."""
    with frozen(function), evaluating(*[function] if eval_mode else []):
        yield


def check_images(images: Tensor) -> Tensor:
    """Images [B, ...] detached and in [0, 1] exactly; excesses up to 1e-6 are rounding and are clipped.

    Raises:
        DataError: not float32 or float64, no batch axis, or values outside [0, 1].
        UsageError: called under inference mode, where no gradient exists.
    """
    if torch.is_inference_mode_enabled():
        raise UsageError("attacks need gradients; call them outside torch.inference_mode() (torch.no_grad() is fine)")
    if images.dtype not in (torch.float32, torch.float64):
        hint = "divide by 255 first" if not images.is_floating_point() else "half precision cannot hold the radius"
        raise DataError(f"images must be float32 in [0, 1]; got {str(images.dtype).removeprefix('torch.')}: {hint}")
    if images.ndim < 2:
        raise DataError(f"images must be a batch [B, ...]; got shape {tuple(images.shape)}")
    if images.numel():
        low, high = images.min().item(), images.max().item()
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise DataError(
                f"images must lie in [0, 1], before normalisation; got values from {low:.4g} to {high:.4g}. "
                "The attacked function normalises itself"
            )
    return images.detach().clamp(0, 1)


def check_labels(labels: Tensor, images: Tensor) -> Tensor:
    """Labels [B] of the images, on their device.

    Raises:
        DataError: not one integer per image, or negative.
    """
    if labels.shape != images.shape[:1]:
        raise DataError(f"expected one label for each of {len(images)} images; got shape {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"labels must be class numbers (int64); got {str(labels.dtype).removeprefix('torch.')}")
    labels = labels.to(images.device, torch.long)
    if len(labels) and labels.min() < 0:
        raise DataError(f"labels must be 0 or more; got {labels.min().item()}")
    return labels


def check_indices(indices: Tensor | Sequence[int] | None, images: Tensor) -> Tensor:
    """Dataset positions [B], on the device of the images; 0 .. B-1 by default."""
    if indices is None:
        return torch.arange(len(images), device=images.device)
    positions = torch.as_tensor(indices, dtype=torch.long, device=images.device)
    if positions.shape != images.shape[:1]:
        raise DataError(f"expected one index for each of {len(images)} images; got shape {tuple(positions.shape)}")
    return positions


def check_noise(noise: Tensor | None, images: Tensor) -> Tensor | None:
    """Noise [B, ...] in [-1, 1] of the images' shape, given in place of a draw."""
    if noise is None:
        return None
    if noise.shape != images.shape or not noise.abs().le(1).all():
        raise DataError(f"noise must lie in [-1, 1] and have the shape of the images, {tuple(images.shape)}")
    return noise.to(images)


def check_logits(outputs: Tensor, rows: int, top_label: int) -> None:
    """Logits [rows, K] for at least two classes, all labels among them.

    Raises:
        UsageError: the function does not return such logits.
        DataError: a label is K or more.
    """
    if outputs.ndim != 2 or len(outputs) != rows:
        raise UsageError(
            f"a classification loss needs logits [{rows}, K]; the function returned shape {tuple(outputs.shape)}. "
            "For features pass loss=, a function (outputs, labels) -> [B]"
        )
    classes = outputs.shape[1]
    if classes < 2:
        raise UsageError(f"a classifier needs at least two classes; the function returned {classes} logit(s) an image")
    if top_label >= classes:
        raise DataError(f"labels must be below the number of classes, {classes}; got {top_label}")


def check_radius(eps: str | float, norm: str) -> float:
    """The radius in the unit of the images; norm and radius checked."""
    check_choice("norm", norm, NORMS)
    return parse_eps(eps, norm)


def check_step(step_size: str | float | None) -> float | None:
    """The length of a step in the unit of the images; None leaves the default."""
    if step_size is None:
        return None
    try:
        step = parse_eps(step_size, "l2")
    except UsageError as error:
        raise UsageError(str(error).replace("eps", "step_size", 1)) from None
    if step == 0:
        raise UsageError("step_size must be above 0; got 0")
    return step


def check_seed(seed: Any) -> None:
    check_whole("seed", seed, 0)
    if seed >= 2**63:
        raise UsageError(f"seed must be below 2^63; got {seed}")


def check_loss(loss: str | Loss, targeted: bool, from_clean: bool) -> None:
    """A named loss ("kl": from the clean prediction, without labels) or any function (outputs, labels) -> [B].

    Args:
        from_clean: the attack starts at the clean image, where the gradient of "kl" is zero.
    """
    if callable(loss):
        return
    check_choice("loss", loss, (*ATTACK_LOSSES, "kl"))
    if loss == "kl" and targeted:
        raise UsageError('loss "kl" uses no labels, so it cannot be targeted; use "ce", "margin" or "dlr"')
    if loss == "kl" and from_clean:
        raise UsageError('loss "kl" has no gradient at the clean image; use a random start')
