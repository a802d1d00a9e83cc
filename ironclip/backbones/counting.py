"""Counts the passes of the image tower per answer: real calls, not a formula."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ironclip.backbones.adapter import ClipBackbone


@dataclass
class Passes:
    """Number of images that went forward through the image tower, and of those whose features got a gradient.

    A gradient that stops inside the tower counts as a pass, too.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(backbone: ClipBackbone) -> Iterator[Passes]:
    """Counts the passes of this image tower inside the block."""
    passes = Passes()

    def back(slope: Tensor) -> None:
        passes.backward += len(slope)

    def forth(tower: Any, given: Any, features: Tensor) -> None:
        passes.forward += len(features)
        if features.requires_grad:
            features.register_hook(back)

    hook = backbone.image.register_forward_hook(forth)
    try:
        yield passes
    finally:
        hook.remove()
