"""A classifier whose deep prompts can differ from image to image: tokens appended to the image, context, deeper text prompts."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.backbones.deep_prompts import AppendedPrompts, RenewedPrompts
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Edit, Trace
from ironclip.testtime._prompts import Prompted

Prompts = tuple[Tensor, ...]
"""(image [J, P, D],) or (image, context [M, D] or [K, M, D]) or (image, context, deeper text [J-1, P, D]); with a first axis B
where every image has its own."""


class DeepPrompted(AdaptedClassifier):
    """The base with its deep prompts as values; where it has none for the image, new ones are drawn from N(0, 0.02^2).

    Args:
        base: its backbone, classes and everything else it changes are taken over.
        text: tune the text side, too: the base's context (or the words "a photo of a") and its deeper text prompts, if any.
        length, depth: P and J of new image prompts; depth None: nine, or all layers of a tower that has fewer.
        generator: of new image prompts.

    Raises:
        UnsupportedEdit: the image tower has no token sequence, or the base appends tokens that are no deep prompts.
        UsageError: deeper than the tower.
    """

    def __init__(
        self, base: AdaptedClassifier, *, text: bool, length: int, depth: int | None, generator: torch.Generator
    ) -> None:
        spec = base.backbone.spec
        if not spec.image_tokens:
            raise UnsupportedEdit(f"{spec.name} has no token sequence to put prompts into; use a ViT backbone")
        depth = min(9, spec.image_layers) if depth is None else depth
        if depth > spec.image_layers:
            raise UsageError(f"prompt depth must be 1 to {spec.image_layers}, the layers of the image tower; got {depth}")
        adaptation = (Prompted(base) if text else base).adaptation
        image, deeper = [_value(edit) for edit in adaptation.image_edits], [_value(edit) for edit in adaptation.text_edits]
        if not any(getattr(edit, "appends", False) for edit in image):
            drawn = torch.randn(depth, length, spec.image_width, generator=generator) * 0.02
            values = drawn.to(base.backbone.device, base.backbone.dtype)
            image.append(AppendedPrompts(values, spec.image_layers))
        if not any(isinstance(edit, AppendedPrompts) for edit in image):
            raise UnsupportedEdit("the base appends image tokens that are no deep prompts; TAPT cannot tune them")
        adaptation = replace(adaptation, image_edits=tuple(image), text_edits=tuple(deeper))
        with torch.no_grad():
            super().__init__(base.backbone, base.classes, adaptation, base.precision)
        start = [next(edit.prompts for edit in image if isinstance(edit, AppendedPrompts))]
        if text:
            assert adaptation.context is not None
            start += [adaptation.context.vectors, *[edit.prompts for edit in deeper if isinstance(edit, RenewedPrompts)]]
        self.start: Prompts = tuple(values.detach() for values in start)
        self._graph: tuple[Tensor, Prompts] | None = None

    @property
    def length(self) -> int:
        """Appended tokens of an image."""
        return self.start[0].shape[-2]

    def features(self, images: Tensor, prompts: Tensor, trace: Trace | None = None) -> Tensor:
        """[B, V, E] unit features of views [B, V, 3, S, S], with image prompts [B, J, P, D]; the trace holds B V rows."""
        each = prompts.transpose(0, 1).repeat_interleave(images.shape[1], dim=1)
        edits = [replace(edit, prompts=each) if isinstance(edit, AppendedPrompts) else edit for edit in self._edits]
        twin = self._with(image_edits=tuple(edits))
        return F.normalize(twin.encode_image(images.flatten(0, 1), trace=trace), dim=-1).unflatten(0, images.shape[:2])

    def texts(self, prompts: Prompts) -> Tensor:
        """[B, K, E] unit text features of text prompts that start with B; those of the start, where the text is not tuned.

        Args:
            prompts: image prompts first, as everywhere; they are not read.
        """
        if len(self.start) == 1:
            return self.text_features.detach().expand(len(prompts[0]), *self.text_features.shape)
        return torch.stack([self._text(tuple(one)) for one in zip(*prompts[1:], strict=True)])

    def pull(self, prompts: Prompts, cotangents: Tensor, *, shared: bool) -> Prompts:
        """Gradients with respect to each image's text prompts, of sum(cotangent * text features); () where none are tuned.

        Args:
            cotangents: [B, K, E].
            shared: all images stand at the start, so that one text graph serves them all.
        """
        if len(self.start) == 1:
            return ()
        rows = []
        with torch.enable_grad():
            for number, cotangent in enumerate(cotangents):
                features, leaves = self._at_start() if shared else self._with_graph(tuple(p[number] for p in prompts[1:]))
                rows.append(torch.autograd.grad(features, leaves, cotangent, retain_graph=shared))
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))

    def _at_start(self) -> tuple[Tensor, Prompts]:
        if self._graph is None:
            self._graph = self._with_graph(self.start[1:])
        return self._graph

    def _with_graph(self, text: Prompts) -> tuple[Tensor, Prompts]:
        leaves = tuple(values.detach().clone().requires_grad_() for values in text)
        return self._text(leaves), leaves

    def _text(self, text: Sequence[Tensor]) -> Tensor:
        context = self.adaptation.context
        assert context is not None
        edits = self.adaptation.text_edits
        if len(text) == 2:
            edits = tuple(replace(edit, prompts=text[1]) if isinstance(edit, RenewedPrompts) else edit for edit in edits)
        return self._with(context=replace(context, vectors=text[0]), text_edits=edits)._encode_classes()

    @property
    def _edits(self) -> tuple[Edit, ...]:
        return self.adaptation.image_edits

    def _with(self, **changes: Any) -> "DeepPrompted":
        twin = copy.copy(self)
        twin.adaptation = replace(self.adaptation, **changes)
        return twin


def _value(edit: Edit) -> Edit:
    """Deep prompts as constants, whether a module holds them or not; any other edit as it is."""
    found = edit.value() if hasattr(edit, "value") else edit
    return replace(found, prompts=found.prompts.detach()) if isinstance(found, AppendedPrompts | RenewedPrompts) else edit
