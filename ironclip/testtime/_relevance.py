"""Attention maps of the class token per image: A-TPT's rollout of the last two blocks or of all, and Grad-CAM for RN50.

Source: SEU-VIPGroup/A-TPT (`atpt.py`: get_gradrollout_last2avg_attn_up, get_rn50_singlelayer_gradrollout_top1,
build_high_mid_low_masks). All maps of a batch come from one pass: the sum of the scores of single images has separate gradients.
Blocks before those rolled out run without a graph, and maps are constants for every gradient; with `graph=True`, for an attacker,
maps are differentiable in the images (second derivatives of the scores).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.backbones import AdaptedClassifier
from ironclip.core.types import Trace
from ironclip.testtime._base import chunk_size

TINY = 1e-8


@dataclass(frozen=True)
class Ingredients:
    """The inputs of a rollout, for N images and the last J blocks, in their order.

    Args:
        features: [N, E] unit features.
        classes: [N] whose logit was differentiated: the best under the text features.
        attention: [N, J, H, T, T] softmax attention.
        tokens: [N, J, T, D] inputs of the blocks, or of their attention (after the first norm).
        gradients: [N, J, T, D] of the logit with respect to them.
        slopes: [N, J, H, T, T] of the logit with respect to the attention.
    """

    features: Tensor
    classes: Tensor
    attention: Tensor
    tokens: Tensor
    gradients: Tensor
    slopes: Tensor

    @property
    def products(self) -> Tensor:
        """[N, J, T] inner product of every token with its gradient."""
        return (self.tokens * self.gradients).sum(-1)


def relevance_maps(
    base: AdaptedClassifier,
    images: Tensor,
    text: Tensor,
    *,
    rollout: str = "token_gradient",
    tokens_at: str = "block_input",
    layers: str = "last_two",
    layer_weights: tuple[float, float] = (0.5, 1.0),
    clip: float | None = 0.99,
    graph: bool = False,
) -> Tensor:
    """[N, G, G] maps in [0, 1] of images [N, 3, S, S]; options as those of the method `atpt`.

    Args:
        text: [K, E] unit text features, constants.
        clip: quantile from which on values count as the largest; None: the rollout as it is, neither clipped nor stretched.
        graph: maps are differentiable in the images.
    """
    side = base.backbone.spec.grid
    found = []
    images = images if graph else images.detach()
    for part in images.split(chunk_size(base.backbone.spec, 1, graph=True, device=images.device)):
        if base.backbone.spec.kind == "resnet":
            raw = grad_cam(base, part, text, graph=graph)
        else:
            made = ingredients(base, part, text, tokens_at=tokens_at, blocks=None if layers == "full" else 2, graph=graph)
            raw = rolled_out(made, rollout=rollout, layers=layers, layer_weights=layer_weights)[:, 1 : 1 + side**2]
        found.append(raw.unflatten(1, (side, side)))
    if clip is None:
        return torch.cat(found)
    maps = clipped(torch.cat(found), clip)
    return sharpened(maps) if base.backbone.spec.kind == "resnet" else maps


def ingredients(
    base: AdaptedClassifier,
    images: Tensor,
    text: Tensor,
    *,
    tokens_at: str = "block_input",
    blocks: int | None = 2,
    graph: bool = False,
) -> Ingredients:
    """One pass of images [N, 3, S, S] with a graph through the last `blocks` only; None, or `graph`: through all of them."""
    backbone, depth = base.backbone, base.backbone.spec.image_layers
    first = 0 if blocks is None else depth - blocks
    looked = tuple(range(first, depth))
    trace = Trace(attention=True, layers=looked)

    def restart(layer: int, tokens: Tensor) -> Tensor:
        return tokens.detach().requires_grad_() if layer == first and not graph else tokens

    restart.changes_output = False  # type: ignore[attr-defined]
    for change in base.adaptation.pixels:
        images = change(images)
    with torch.enable_grad(), _normed_inputs(backbone.image, looked) as normed:  # type: ignore[attr-defined]
        seen = images if graph else images.detach()
        features = backbone.encode_image(
            seen, edits=(*base.adaptation.image_edits, restart), weights=base.image_weights, trace=trace
        )
        features = F.normalize(features, dim=-1)
        scores = base.backbone.spec.logit_scale * features @ text.detach().T
        classes = scores.argmax(1)
        attention = [trace.weights[layer] for layer in looked]
        tokens = normed if tokens_at == "after_ln1" else [trace.inputs[layer] for layer in looked]
        slopes = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), [*tokens, *attention], create_graph=graph)
    kept = [features, torch.stack(attention, dim=1), torch.stack(tokens, dim=1)]
    features, probabilities, inputs = kept if graph else [each.detach() for each in kept]
    return Ingredients(
        features,
        classes,
        probabilities,
        inputs,
        torch.stack(slopes[: len(looked)], dim=1),
        torch.stack(slopes[len(looked) :], dim=1),
    )


def rolled_out(
    made: Ingredients, *, rollout: str, layers: str = "last_two", layer_weights: tuple[float, float] = (0.5, 1.0)
) -> Tensor:
    """[N, T] how much each token counts for the class token, before clipping."""
    if rollout == "attention":
        return made.attention[:, -1, :, 0].mean(1)
    if rollout == "attention_gradient":
        mixed = (made.attention * made.slopes).relu().mean(2)
    else:
        weights = token_weights(made.products)
        mixed = made.attention.mean(2) * weights[:, :, None]
    hops = _rows(mixed + torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device))
    before, last = hops[:, -2], hops[:, -1]
    if layers == "full":
        row = last[:, :1]
        for hop in reversed(hops.unbind(1)[:-1]):
            row = row @ hop
        return row[:, 0]
    if layers != "last_two":
        return (last if layers == "last" else before)[:, 0]
    low, high = layer_weights
    average = _rows((low * before + high * last) / (low + high))
    return (last[:, :1] @ average)[:, 0]


def token_weights(products: Tensor) -> Tensor:
    """[N, J, T] positive parts of the products, of sum 1 over all tokens."""
    positive = products.relu()
    return positive / (positive.sum(-1, keepdim=True) + TINY)


def grad_cam(base: AdaptedClassifier, images: Tensor, text: Tensor, *, graph: bool = False) -> Tensor:
    """[N, G*G] Grad-CAM of the best class on the last feature map of a ResNet."""
    trace = Trace(layers=(0,))
    twice = sdpa_kernel(SDPBackend.MATH) if graph else nullcontext()  # fused kernels cannot be differentiated twice
    with torch.enable_grad(), twice:
        seen = images if graph else images.detach().requires_grad_()
        features = base.encode_image(seen, trace=trace)
        scores = base.backbone.spec.logit_scale * F.normalize(features, dim=-1) @ text.detach().T
        maps = trace.inputs[0]
        (slope,) = torch.autograd.grad(scores.amax(1).sum(), maps, create_graph=graph)
        found = (slope.mean(1, keepdim=True) * maps).sum(-1).relu()
    return found if graph else found.detach()


def sharpened(maps: Tensor, low: float = 0.2) -> Tensor:
    """Maps of RN50 with small values cut, stretched to 1 and squared; changes zones by ties at 0 only."""
    cut = (maps - low).relu()
    return (cut / (cut.amax((1, 2), keepdim=True) + TINY)).square()


def clipped(maps: Tensor, quantile: float) -> Tensor:
    """[N, G, G] clipped from above at this quantile and stretched to [0, 1], each map by itself."""
    flat = maps.flatten(1)
    flat = flat.minimum(flat.quantile(quantile, dim=1, keepdim=True))
    low = flat.amin(1, keepdim=True)
    return ((flat - low) / (flat.amax(1, keepdim=True) - low + TINY)).view_as(maps)


def enlarged(maps: Tensor, side: int) -> Tensor:
    """[N, side, side] bilinear from [N, G, G]."""
    return F.interpolate(maps[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]


def zones(pixels: Tensor, p_high: float, p_low: float) -> tuple[Tensor, Tensor]:
    """(high, low) masks [N, S, S]: above the 1 - p_high quantile of each map; at or below its p_low quantile and not high."""
    flat = pixels.flatten(1)
    high = pixels > flat.quantile(1 - p_high, dim=1)[:, None, None]
    low = (pixels <= flat.quantile(p_low, dim=1)[:, None, None]) & ~high
    return high, low


def total_variation(maps: Tensor) -> Tensor:
    """[...] sum of absolute differences between neighbours in maps [..., G, G]."""
    return maps.diff(dim=-1).abs().sum((-2, -1)) + maps.diff(dim=-2).abs().sum((-2, -1))


def _rows(values: Tensor) -> Tensor:
    return values / (values.sum(-1, keepdim=True) + TINY)


@contextmanager
def _normed_inputs(tower: nn.Module, layers: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """Collects what the attention of these blocks of a ViT gets, on the autograd path."""
    seen: list[Tensor] = []
    blocks = tower.net.transformer.resblocks  # type: ignore[union-attr]
    hooks = [blocks[layer].ln_1.register_forward_hook(lambda module, given, output: seen.append(output)) for layer in layers]  # type: ignore[union-attr, index]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def attention_map(classifier: nn.Module, images: Tensor) -> Tensor | None:
    """[B, G, G] in [0, 1]: where the class token of the model (below a test-time method: of its base) looks in images
    [B, 3, S, S]; A-TPT's map with its own options where that is the method. None where the model has no such map."""
    method, base = getattr(classifier, "method", None), getattr(classifier, "base", classifier)
    if not isinstance(base, AdaptedClassifier):
        return None
    spec = base.backbone.spec
    if spec.kind not in ("vit", "resnet") or (spec.kind == "vit" and (spec.image_layers < 2 or not spec.class_token)):
        return None
    if (maps := getattr(method, "maps", None)) is not None:
        return maps(base, images)
    return relevance_maps(base, images, base.text_features, tokens_at="after_ln1", layer_weights=(1.0, 1.0))
