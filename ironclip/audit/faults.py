"""A first check of a foreign classifier: an error in one line, before any time is spent."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ironclip.audit.forward import state
from ironclip.audit.guard import guarded
from ironclip.core.errors import DataError, NonFinite, UsageError

CUT = "on Tensor that requires grad"
"""Of the error of torch where a tensor with a gradient is turned into an array."""


class External(nn.Module):
    """Any callable images -> logits as a classifier of these classes.

    Args:
        function: a module, or any callable; a module's parameters are borrowed, not copied.
        home: folder from which it may import while it is called.
    """

    def __init__(self, function: Any, classes: Sequence[str], home: Path | None = None) -> None:
        super().__init__()
        if not callable(function):
            raise UsageError(f"a target is a callable images -> logits; got {type(function).__name__}")
        self.function, self.classes, self.home = function, tuple(classes), home

    def forward(self, images: Tensor) -> Tensor:
        with guarded(f"the target fails on images {list(images.shape)}", self.home):
            logits = self.function(images)
        if not isinstance(logits, Tensor):
            raise UsageError(f"the target returns {type(logits).__name__}; expected a tensor of logits [B, K]")
        return logits if logits.dtype == torch.float64 else logits.float()


def check_target(classifier: Any, images: Tensor, labels: Tensor, classes: Sequence[str]) -> bool:
    """Whether the classifier has gradients with respect to images like these [B, 3, H, W]; without them it has scores only.

    Raises:
        UsageError: it fails, returns no logits for these classes or on another device, or changes its weights.
        DataError: fewer than two classes.
        NonFinite: logits or gradients with NaN or infinity.
    """
    if len(classes) < 2:
        raise DataError(f"an audit needs at least two classes; the data has {len(classes)}: {', '.join(classes)}")
    before = state(classifier)
    with torch.no_grad(), guarded(f"the target fails on images {list(images.shape)}"):
        logits = classifier(images.detach())
    _check_logits(logits, images, classes)
    slope = _slope(classifier, images, labels)
    if slope is not None and (bad := ~slope.flatten(1).isfinite().all(1)).any():
        raise NonFinite(
            f"the target's gradient is NaN or infinite for {int(bad.sum())} of {len(images)} images; run it in float32"
        )
    for name, tensor in classifier.named_parameters() if isinstance(classifier, nn.Module) else ():
        if not tensor.equal(before[name]):
            raise UsageError(f"the target changes its own weights in a call ({name}); adapt a copy, afresh for every image")
    return slope is not None


def _slope(classifier: Any, images: Tensor, labels: Tensor) -> Tensor | None:
    """The gradient of the cross-entropy with respect to the images; None where the way from them to the logits is cut."""
    leaf = images.detach().clone().requires_grad_()
    try:
        with torch.enable_grad(), guarded("the target cannot be differentiated"):
            logits = classifier(leaf)
            if not logits.requires_grad:
                return None
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            return torch.autograd.grad(loss, leaf, allow_unused=True)[0]
    except UsageError as error:
        if CUT in str(error):
            return None
        raise


def _check_logits(logits: Tensor, images: Tensor, classes: Sequence[str]) -> None:
    if logits.ndim == 2 and logits.shape[1] == 1:
        raise UsageError("the target returns one logit per image (K = 1); expected one for each class, two for a yes or no")
    if logits.shape != (len(images), len(classes)):
        raise UsageError(
            f"the target returns shape {list(logits.shape)}; expected logits [{len(images)}, {len(classes)}], "
            "one column per class"
        )
    if logits.device != images.device:
        raise UsageError(f"the target returns logits on {logits.device} for images on {images.device}; keep them on one device")
    if not logits.isfinite().all():
        rows = int((~logits.isfinite().all(1)).sum())
        raise NonFinite(f"the target returns NaN or infinity for {rows} of {len(images)} images; check the model in float32")
