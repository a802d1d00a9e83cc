"""Transfer: images made on another backbone, for a model that the attacker does not know.

Zero-shot classification by the source backbone, with the class names of the attacked classifier, is attacked; every image is
perturbed with all steps (no early stop), as images for another model must be. If transfer breaks more images than the white-box
attack on the same target, gradients are probably masked.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ironclip.attacks._options import AttackOptions
from ironclip.backbones import ClipBackbone, assemble
from ironclip.backbones.loading import load
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice
from ironclip.core.types import Images

INNER = ("pgd", "mim", "di")


@dataclass(frozen=True)
class Transfer(AttackOptions):
    """Images in the ball and in [0, 1] made on zero-shot classification by the backbone `source`.

    Args:
        source: a backbone's name, as `--backbone` takes it; loaded once.
        inner: what is run on the source: "pgd" (margin loss, last iterate), "mim" or "di".

    Raises:
        UsageError: a function without class names, or a source that sees images of another size.
        CheckpointError: weights that cannot be loaded.
    """

    norm: ClassVar[str] = "linf"
    gradients: ClassVar[bool] = False

    eps: float
    source: str = "mini"
    inner: str = "mim"
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("inner", self.inner, INNER)

    def perturb(self, function: Images, images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """See `AttackOptions.__call__`.

        Args:
            function: only its class names are used: a classifier with `.classes`.
        """
        from ironclip.attacks._catalogue import build

        classes = getattr(function, "classes", None)
        if classes is None:
            raise UsageError("a transfer attack needs a classifier with class names; this function has no attribute classes")
        backbone = _backbone(self.source, str(images.device))
        if images.shape[-1] != backbone.spec.resolution:
            sizes = f"{backbone.spec.resolution} pixels, the images have {images.shape[-1]}"
            raise UsageError(f"transfer images need a source of the same resolution; {self.source} sees {sizes}")
        with torch.no_grad():
            surrogate = assemble(backbone, tuple(classes))
        options: dict[str, Any] = {"keep": "last", "loss": "margin"} if self.inner == "pgd" else {}
        made = build(self.inner, eps=self.eps, steps=self.steps, seed=self.seed, **options)
        return made(surrogate, images, labels, indices=positions)


@lru_cache(maxsize=4)
def _backbone(name: str, device: str) -> ClipBackbone:
    return load(name, device=device)


ATTACK = Transfer
