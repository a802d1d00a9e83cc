"""A frozen zero-shot classifier that a defence learns from (guide, teacher). It is never stored with the learned tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier, assemble, load
from ironclip.backbones.prompts import fill
from ironclip.core.errors import UsageError
from ironclip.core.options import check_templates
from ironclip.core.types import Adaptation, Backbone

SAME = "same_backbone"


class FrozenClip:
    """Logits of a CLIP with hand-written prompts, without a gradient.

    A second backbone is loaded with the first images (or by `ready`), so that a finished run can be used without it.

    Args:
        source: "same_backbone": the one that is adapted, without anything learned; else the name of a backbone to load.
        templates: prompts with `{}` for the class name; several are averaged.
    """

    def __init__(self, source: str, backbone: Backbone, classes: Sequence[str], templates: Sequence[str]) -> None:
        if not isinstance(source, str) or not source.strip():
            raise UsageError(
                f"the frozen model is {SAME!r} or the name of a backbone, for example 'ViT-B-32/openai'; got {source!r}"
            )
        self.source = source
        self.templates = check_templates(templates)
        for template in self.templates:
            backbone.tokenize(fill(template, classes))  # fails here, not in the first step, where a prompt does not fit
        self._adaptation, self.adapted = Adaptation(templates=self.templates), False
        self._other: Backbone | None = None
        self._made: AdaptedClassifier | None = None

    def ready(self, backbone: Backbone) -> Backbone:
        """The backbone behind it.

        Raises:
            UsageError, CheckpointError: the other backbone cannot be loaded, or takes images of another size.
        """
        if self.source == SAME:
            return backbone
        if self._other is None:
            precision = str(backbone.dtype).removeprefix("torch.")
            self._other = load(self.source, device=backbone.device, precision=precision)
            sides = self._other.spec.resolution, backbone.spec.resolution
            if sides[0] != sides[1]:
                raise UsageError(f"{self.source} takes images of {sides[0]} pixels and {backbone.spec.name} of {sides[1]}")
        return self._other

    @torch.no_grad()
    def logits(self, backbone: Backbone, images: Tensor, classes: Sequence[str]) -> Tensor:
        """[B, K] logits of images [B, 3, H, W] in [0, 1]; the text features are computed once for each list of classes."""
        model = self.ready(backbone)
        if self._made is None or self._made.backbone is not model or self._made.classes != tuple(classes):
            self._made = assemble(model, classes, self._adaptation)
        return self._made(images)

    def adapt(self, adaptation: Adaptation) -> None:
        """Use this adaptation in place of the hand-written prompts."""
        self._adaptation, self.adapted, self._made = adaptation, True, None
