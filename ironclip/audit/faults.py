"""A first look at a foreign classifier: what is wrong with it, in one line, before any time is spent."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ironclip.audit.forward import state
from ironclip.errors import DataError, IronclipError, NonFinite, UsageError


class External(nn.Module):
    """Any callable images -> logits as a classifier of these classes.

    Args:
        function: a module, or any callable; a module's parameters are borrowed, not copied.
    """

    def __init__(self, function: Any, classes: Sequence[str]) -> None:
        super().__init__()
        if not callable(function):
            raise UsageError(f"a target is a callable images -> logits; got {type(function).__name__}")
        self.function, self.classes = function, tuple(classes)

    def forward(self, images: Tensor) -> Tensor:
        try:
            logits = self.function(images)
        except IronclipError:
            raise
        except Exception as error:  # whatever a foreign function may raise, at its first call or its thousandth
            raise UsageError(f"the target fails on images {list(images.shape)}: {type(error).__name__}: {_line(error)}") from None
        if not isinstance(logits, Tensor):
            raise UsageError(f"the target returns {type(logits).__name__}; expected a tensor of logits [B, K]")
        return logits if logits.dtype == torch.float64 else logits.float()


def check_target(classifier: Any, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Nothing, if the classifier can be audited on images like these [B, 3, H, W].

    Raises:
        UsageError: it fails, returns no logits for these classes or on another device, has no gradient, changes its weights.
        DataError: fewer than two classes.
        NonFinite: logits or gradients with NaN or infinity.
    """
    if len(classes) < 2:
        raise DataError(f"an audit needs at least two classes; the data has {len(classes)}: {', '.join(classes)}")
    before = state(classifier)
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits = classifier(leaf)
        _check_logits(logits, images, classes)
        if not logits.requires_grad:
            raise UsageError(
                "the target has no gradient with respect to the images; run it without no_grad and detach, or wrap the part "
                "that cannot be differentiated in ironclip.attacks.bpda.BPDA"
            )
        try:
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), leaf, allow_unused=True)
        except RuntimeError as error:
            raise UsageError(f"the target cannot be differentiated: {_line(error)}") from None
    if slope is None:
        raise UsageError("the target's logits do not depend on the images on the autograd path; wrap the cut in BPDA")
    bad = ~slope.flatten(1).isfinite().all(1)
    if bad.any():
        raise NonFinite(
            f"the target's gradient is NaN or infinite for {int(bad.sum())} of {len(images)} images; run it in float32"
        )
    for name, tensor in classifier.named_parameters() if isinstance(classifier, nn.Module) else ():
        if not tensor.equal(before[name]):
            raise UsageError(f"the target changes its own weights in a call ({name}); adapt a copy, afresh for every image")


def _check_logits(logits: Tensor, images: Tensor, classes: Sequence[str]) -> None:
    if logits.ndim == 2 and logits.shape[1] == 1:
        raise UsageError("the target returns one logit an image (K = 1); expected one for each class, two for a yes or no")
    if logits.shape != (len(images), len(classes)):
        raise UsageError(
            f"the target returns shape {list(logits.shape)}; expected logits [{len(images)}, {len(classes)}], a column a class"
        )
    if logits.device != images.device:
        raise UsageError(f"the target returns logits on {logits.device} for images on {images.device}; keep them on one device")
    if not logits.isfinite().all():
        rows = int((~logits.isfinite().all(1)).sum())
        raise NonFinite(f"the target returns NaN or infinity for {rows} of {len(images)} images; check the model in float32")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:160]
