"""The frozen model behind one adapter: normalisation, the two towers, the tokenizer and the sizes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ironclip.backbones.towers import Tower
from ironclip.core.errors import UsageError
from ironclip.core.types import BackboneSpec, Edit, PromptTokens, Trace

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
REMEMBERED = 32  # lists of texts whose tokens are kept: a training step asks for the same few again and again


class ClipBackbone(nn.Module):
    """A `types.Backbone`: frozen, in eval mode, taking images in [0, 1].

    `origin` holds the arguments of `load` with which it can be loaded again; empty where it was made by hand.

    Args:
        image: tower with edit points.
        text: text tower (`TextTower` or one with its interface).
        tokenizer: texts -> ids [K, T].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image: Tower,
        text: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str,
        logit_scale: float,
        activation: Literal["gelu", "quick_gelu"],
        logit_bias: float | None = None,
        mean: Sequence[float] = OPENAI_MEAN,
        std: Sequence[float] = OPENAI_STD,
        sha256: str = "",
    ) -> None:
        super().__init__()
        self.origin: Mapping[str, str] = {}
        self.image, self.text, self._tokenizer = image, text, tokenizer
        self._ids: dict[tuple[str, ...], Tensor] = {}
        like = next(image.parameters())
        for constant, values in (("mean", mean), ("std", std)):
            self.register_buffer(constant, like.new_tensor(values).view(3, 1, 1), persistent=False)
        with torch.no_grad():
            embed_dim = image(like.new_zeros(1, 3, image.resolution, image.resolution)).shape[1]
        self._spec = BackboneSpec(
            name=name,
            kind=image.kind,
            image_layers=image.layers,
            image_width=image.width,
            text_layers=text.layers,
            text_width=text.width,
            embed_dim=embed_dim,
            grid=image.grid,
            image_tokens=image.tokens,
            class_token=image.class_token,
            resolution=image.resolution,
            context_length=text.context_length,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            activation=activation,
            mean=tuple(mean),
            std=tuple(std),
            image_weights=image.weight_names,
            text_weights=text.weight_names,
            image_parameters=image.parameter_names,
            text_parameters=text.parameter_names,
            sha256=sha256,
        )
        self.requires_grad_(False)
        self.eval()

    def _apply(self, *args: Any, **options: Any) -> "ClipBackbone":
        """As for any module; mean and standard deviation are rounded only once, to the new precision."""
        super()._apply(*args, **options)
        self.mean, self.std = (self.mean.new_tensor(v).view(3, 1, 1) for v in (self._spec.mean, self._spec.std))
        return self

    @property
    def spec(self) -> BackboneSpec:
        return self._spec

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    def train(self, mode: bool = True) -> "ClipBackbone":
        """Does nothing: a frozen tower stays in eval mode, so that it neither updates nor uses batch statistics."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """[K, T] ids with T the context length.

        Raises:
            UsageError: a text has more tokens than the context holds (open_clip would cut it silently).
        """
        texts = tuple(texts)
        if texts not in self._ids:
            self._check_lengths(texts)
            while len(self._ids) >= REMEMBERED:
                del self._ids[next(iter(self._ids))]
            self._ids[texts] = self._tokenizer(list(texts))
        return self._ids[texts].to(self.device)

    def _check_lengths(self, texts: Sequence[str]) -> None:
        encode = getattr(self._tokenizer, "encode", None)
        if encode is None:
            return
        room = self.spec.context_length - 2
        for text in texts:
            if (tokens := len(encode(text))) > room:
                raise UsageError(f"{text[:60]!r} has {tokens} tokens; {self.spec.name} holds at most {room}. Shorten it")

    def embed_text(self, texts: Sequence[str]) -> PromptTokens:
        return self.text.embed(self.tokenize(texts))

    def encode_text(
        self,
        tokens: PromptTokens,
        *,
        edits: Sequence[Edit] = (),
        weights: Mapping[str, Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        return self._plain(self.text(tokens, edits=edits, weights=weights, trace=trace))

    def encode_image(
        self,
        images: Tensor,
        *,
        edits: Sequence[Edit] = (),
        weights: Mapping[str, Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        side = self.spec.resolution
        if images.ndim != 4 or images.shape[1:] != (3, side, side):
            raise UsageError(f"{self.spec.name} takes images [B, 3, {side}, {side}] in [0, 1]; got shape {tuple(images.shape)}")
        if not images.is_floating_point() or torch.promote_types(images.dtype, self.dtype) != self.dtype:
            kind, wanted = (str(dtype).removeprefix("torch.") for dtype in (images.dtype, self.dtype))
            raise UsageError(f"{self.spec.name} takes images in [0, 1] of {wanted}; got {kind}, which must be converted first")
        return self._plain(self.image((images - self.mean) / self.std, edits=edits, weights=weights, trace=trace))

    def _plain(self, features: Tensor) -> Tensor:
        """Features in the precision of the weights: under autocast the towers return bfloat16, which is too coarse for losses."""
        return features.to(self.dtype)

    def image_weight(self, name: str) -> Tensor:
        return self.image.weight(name)

    def text_weight(self, name: str) -> Tensor:
        return self.text.weight(name)

    def __repr__(self) -> str:
        s = self.spec
        size = f"{s.resolution} px, {s.image_layers}x{s.image_width}, E={s.embed_dim}"
        return f"ClipBackbone({s.name}: {s.kind}, {size}, {s.activation})"
