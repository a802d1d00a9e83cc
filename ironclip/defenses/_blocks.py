"""Learned building blocks that several methods share: deep prompts for either tower, and token refiners. Each is an Edit."""

import re
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ironclip.backbones.deep_prompts import AppendedPrompts as AppendedPrompts
from ironclip.backbones.deep_prompts import RenewedPrompts as RenewedPrompts
from ironclip.backbones.words import first_word, word_counts, word_vectors
from ironclip.core.errors import UsageError
from ironclip.core.types import Backbone

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS["quickgelu"] = QuickGELU


def normal(*shape: int, std: float = 0.02, generator: torch.Generator | None = None) -> nn.Parameter:
    """A parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(shape, generator=generator) * std)


def check_depth(depth: int | None, layers: int, tower: str) -> int:
    """The number of prompted layers, all of them by default.

    Raises:
        UsageError: deeper than the tower, or less than one layer.
    """
    if depth is None:
        return layers
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= layers:
        raise UsageError(f"prompt depth must be 1 to {layers}, the layers of the {tower} tower; got {depth}")
    return depth


def starting_words(
    backbone: Backbone, init: str, length: int, generator: torch.Generator | None = None
) -> tuple[nn.Parameter, str]:
    """(context [P, D], template): the first words of `init`, P tokens, made learnable, and the rest as template.

    Random vectors in front of the bare class name where `init` is too short, its P-th token ends within a word, or P is more
    than four [code].

    Args:
        init: words before the class name, or a template with `{}` for it.

    Raises:
        UsageError: no words, or the class name is among the first P.
    """
    text = _words_of(init)
    ends = [match.end() for match in re.finditer(r"\w+|[^\w\s]", text)]
    counts = word_counts(backbone, [text[:end] for end in ends])
    whole = [end for end, count in zip(ends, counts, strict=True) if count == length]  # beginnings of `init` that are P tokens
    if length > 4 or not whole:
        return normal(length, backbone.spec.text_width, generator=generator), "{ctx} {}."
    learned, rest = text[: whole[-1]], text[whole[-1] :]
    if "{" in learned:
        raise UsageError(f"the class name of init={init!r} is among its first {length} words, which are learned")
    context = nn.Parameter(word_vectors(backbone, learned))
    return context, "{ctx}" + (rest if "{}" in rest else rest + " {}.")


def _words_of(init: str) -> str:
    if not isinstance(init, str) or not init.strip():
        raise UsageError(f"init must hold at least one word, for example 'a photo of a'; got {init!r}")
    return init.strip()


def literal_words(backbone: Backbone, init: str, length: int) -> tuple[nn.Parameter, str]:
    """(context [P, D], template) of a `Context` at "over": the first P tokens of `init` made learnable, `{}` in it two braces.

    The class name comes behind `init`. The vectors take the place of the prompt's first P tokens even where these end within
    the braces, or reach into the class name because `init` is shorter. Source: released code of FAP.
    """
    start, init = first_word(backbone), _words_of(init)
    tokens = backbone.embed_text([init, init + " X" * length])  # the second so that P tokens are there
    context = nn.Parameter(tokens.embeddings[0, start : start + length].detach().clone())
    return context, init.replace("{}", "{{}}") + " {}."


class ImagePrompts(nn.Module):
    """`AppendedPrompts` that owns its tokens, drawn from N(0, std^2).

    Args:
        depth: J.
        length: P, tokens per layer.
    """

    changes_output = False
    appends = True

    def __init__(
        self, depth: int, length: int, width: int, *, layers: int, before_ln_pre: bool, std: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens = normal(depth, length, width, std=std, generator=generator)
        self.layers, self.before_ln_pre = layers, before_ln_pre

    def forward(self, layer: int, tokens: Tensor) -> Tensor:
        return self.value()(layer, tokens)

    def value(self) -> AppendedPrompts:
        return AppendedPrompts(self.tokens, self.layers, self.before_ln_pre)


class TextPrompts(nn.Module):
    """`RenewedPrompts` that owns its tokens, drawn from N(0, 0.02^2).

    Args:
        depth: J; there are J-1 deeper prompts.
        length: P, tokens per layer.
        start: position of the first word.
    """

    changes_output = False

    def __init__(self, depth: int, length: int, width: int, *, start: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.tokens = normal(depth - 1, length, width, generator=generator)
        self.start, self.reach = start, start + length

    def forward(self, layer: int, tokens: Tensor) -> Tensor:
        return self.value()(layer, tokens)

    def value(self) -> RenewedPrompts:
        return RenewedPrompts(self.tokens, self.start)


class TokenRefiner(nn.Module):
    """u + scale * R(u) for each token: a small perceptron whose last layer starts at zero, so the start is the identity.

    Args:
        hidden: width of the hidden layers.
        layers: number of linear layers, at least one; the paper calls two sufficient.
        pre_norm: "none" or "layernorm" (without affine), against the outlier channels of CLIP's residual stream.
        gated: the correction is multiplied by 2 sigmoid(g), g linear in the normed mean of the tokens; 1 at the start.

    `kept` [hidden] is the dropout mask of the last hidden layer, already rescaled; None: no dropout.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        layers: int = 2,
        activation: str = "gelu",
        pre_norm: str = "none",
        scale: float = 1.0,
        gated: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (layers - 1), width]
        steps: list[nn.Module] = [nn.LayerNorm(width, elementwise_affine=False)] if pre_norm == "layernorm" else []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            steps += [ACTIVATIONS[activation]()] if i else []
            steps.append(linear(fan_in, fan_out, zero=i == layers - 1, generator=generator))
        self.net = nn.Sequential(*steps)
        self.scale, self.hidden = scale, hidden if layers > 1 else 0
        self.kept: Tensor | None = None
        self.gate = linear(width, 1, zero=True) if gated else None

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.net[:-1](tokens)
        correction = self.net[-1](hidden if self.kept is None else hidden * self.kept)
        if self.gate is not None:
            correction = self.strength(tokens) * correction
        return tokens + self.scale * correction

    def strength(self, tokens: Tensor) -> Tensor:
        """[B, 1, 1] how strongly tokens [B, N, D] are corrected, in (0, 2)."""
        assert self.gate is not None
        mean = tokens.mean(1, keepdim=True)
        found: Tensor = 2 * torch.sigmoid(self.gate(torch.nn.functional.layer_norm(mean, mean.shape[-1:])))
        return found


def linear(fan_in: int, fan_out: int, *, zero: bool = False, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear layer, zero or with PyTorch's default ranges (Kaiming-uniform), drawn from the generator."""
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            bound = 0.0 if zero else fan_in**-0.5
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
    return layer


class Refiners(nn.Module):
    """One refiner in front of each block, or one shared by all; an Edit.

    Args:
        refiners: one module, or one per layer.
        layers: L of the tower.
        count: refine the first `count` tokens alone (images: class token and patches, never prompts); None: all.
        start, skip: text; `skip` positions from `start` on hold prompts on the first `depth` layers and are not refined there.
    """

    changes_output = False

    def __init__(
        self,
        refiners: list[TokenRefiner],
        layers: int,
        *,
        count: int | None = None,
        start: int = 1,
        skip: int = 0,
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.refiners = nn.ModuleList(refiners)
        self.layers, self.count, self.start, self.skip, self.depth = layers, count, start, skip, depth
        self.reach = start + skip

    def forward(self, layer: int, tokens: Tensor) -> Tensor:
        if not 0 <= layer < self.layers:
            return tokens
        if self.count is not None:
            return torch.cat([self.beyond(layer, tokens[:, : self.count]), tokens[:, self.count :]], dim=1)
        refined = self.beyond(layer, tokens)
        if layer >= self.depth or not self.skip:
            return refined
        return torch.cat([refined[:, : self.start], tokens[:, self.start : self.reach], refined[:, self.reach :]], dim=1)

    def beyond(self, layer: int, tokens: Tensor) -> Tensor:
        if not 0 <= layer < self.layers:
            return tokens
        return self.refiners[layer % len(self.refiners)](tokens)
