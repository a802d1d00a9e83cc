"""A-TPT: R-TPT on views that keep the image where the model looks and replace the rest by aggressive augmentation.

Source: arXiv 2605.19956 (abstract and digests; the full text could not be read) and SEU-VIPGroup/A-TPT (`atpt.py`), which are not
the same method. Variant "paper": views vote with weights softmax(-total variation of their map), over the confident ones, by
probabilities. Variant "code": R-TPT's neighbour weights over all views, by logits. Both keep 20 % of each crop at weight 0.8.
Deviations: maps use the start prompt (released: that of the image before); the map's token products are taken after the first
norm in variant "paper" (at the block's input they are rounding noise in the last block, see the card).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.testtime._base import features_of
from ironclip.testtime._prompts import Prompted, entropy, picked, share
from ironclip.testtime._random_views import random_views
from ironclip.testtime._relevance import enlarged, relevance_maps, total_variation, zones
from ironclip.testtime._tuning import Tuned
from ironclip.testtime.rtpt import RTPT

ENSEMBLES = ("tv", "neighbour", "uniform")
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"ensemble": "tv", "tokens_at": "after_ln1", "layer_weights": (1.0, 1.0)},
    "code": {"ensemble": "neighbour", "tokens_at": "block_input", "layer_weights": (0.5, 1.0)},
}


class ATPT(RTPT):
    """Attention-guided views, then R-TPT's step.

    Args:
        variant: "paper" or "code": the three options below where they are None.
        ensemble: "tv", "neighbour" (R-TPT's weights) or "uniform".
        tokens_at: "after_ln1" or "block_input": where tokens meet their gradients.
        layer_weights: of the last but one and the last block in the average.
        guidance: False: R-TPT's views.
        rollout: "token_gradient"; "attention_gradient" (attention times its gradient) and "attention" (of the last block) are
            ablations.
        layers: "last_two"; "last" and "previous" take one block.
        p_high, p_low: shares of pixels that are most and least relevant; together at most 1.
        m_high, m_low: weight of the crop there; between them AugMix's own weight.
        clip: quantile at which maps are clipped.
        vote: neighbour and uniform: how many views of lowest tuned entropy vote; None: all.
        tv_resolution: "grid" or "pixel": where the total variation is taken [inferred].
        tv_norm: "mean" over pairs of neighbours or their "sum" [inferred]; pixel, sum and tv_tau 1 read the paper literally.
        tv_tau: temperature of the softmax [inferred].
    """

    def __init__(
        self,
        *,
        variant: str = "paper",
        ensemble: str | None = None,
        tokens_at: str | None = None,
        layer_weights: Sequence[float] | None = None,
        guidance: bool = True,
        rollout: str = "token_gradient",
        layers: str = "last_two",
        p_high: float = 0.2,
        p_low: float = 0.8,
        m_high: float = 0.8,
        m_low: float = 0.2,
        clip: float = 0.99,
        vote: int | None = None,
        tv_resolution: str = "grid",
        tv_norm: str = "mean",
        tv_tau: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_choice("variant", variant, tuple(VARIANTS))
        self.variant = variant
        chosen = VARIANTS[variant]
        self.ensemble: str = chosen["ensemble"] if ensemble is None else ensemble
        self.tokens_at: str = chosen["tokens_at"] if tokens_at is None else tokens_at
        check_choice("ensemble", self.ensemble, ENSEMBLES)
        check_choice("tokens_at", self.tokens_at, ("after_ln1", "block_input"))
        weights = tuple(chosen["layer_weights"] if layer_weights is None else layer_weights)
        if len(weights) != 2:
            raise UsageError(f"layer_weights are two numbers, of the last but one and the last block; got {weights}")
        for weight in weights:
            check_number("layer_weights", weight, 0)
        check_flags(guidance=guidance)
        check_choice("rollout", rollout, ("token_gradient", "attention_gradient", "attention"))
        check_choice("layers", layers, ("last_two", "last", "previous"))
        for name, value in (("p_high", p_high), ("p_low", p_low), ("m_high", m_high), ("m_low", m_low), ("clip", clip)):
            check_number(name, value, 0, 1)
        if p_high + p_low > 1 + 1e-9:
            raise UsageError(f"p_high + p_low is at most 1; got {p_high} + {p_low}")
        if vote is not None:
            check_whole("vote", vote, 1)
        check_choice("tv_resolution", tv_resolution, ("grid", "pixel"))
        check_choice("tv_norm", tv_norm, ("mean", "sum"))
        check_number("tv_tau", tv_tau, 0, above=True)
        self.layer_weights: tuple[float, float] = (weights[0], weights[1])
        self.guidance, self.rollout, self.layers = guidance, rollout, layers
        self.p_high, self.p_low, self.m_high, self.m_low, self.clip, self.vote = p_high, p_low, m_high, m_low, clip, vote
        self.tv_resolution, self.tv_norm, self.tv_tau = tv_resolution, tv_norm, tv_tau
        guided = self.views - 1 if guidance and self.augmix else 0
        self.passes = self.views + guided + (share(self.select, self.views) if self.ensemble == "tv" else 0)

    def stand(self, base: AdaptedClassifier) -> AdaptedClassifier:
        spec = base.backbone.spec
        if spec.kind not in ("vit", "resnet"):
            raise UsageError(f"atpt reads the attention of open_clip's ViT, or RN50; {spec.name} is neither")
        if spec.kind == "vit" and not spec.class_token:
            raise UsageError(f"atpt reads where the class token looks; {spec.name} averages all tokens instead")
        return super().stand(base)

    def maps(self, base: AdaptedClassifier, views: Tensor) -> Tensor:
        """[..., G, G] relevance maps of views [..., 3, S, S] under the start prompt; constants."""
        flat = relevance_maps(
            base, views.flatten(0, -4), base.text_features, rollout=self.rollout, tokens_at=self.tokens_at, layers=self.layers,
            layer_weights=self.layer_weights, clip=self.clip,
        )  # fmt: skip
        return flat.view(*views.shape[:-3], *flat.shape[1:])

    def pictures(self, base: Prompted, images: Tensor, keys: Sequence[int]) -> Tensor:
        found = random_views(images, keys, self.views - 1, augmix=self.augmix)
        if not self.guidance or not self.augmix or self.views == 1:
            return torch.cat([images[:, None], found.blended], dim=1)
        mixed = self.mixed(self.maps(base, found.base), found.base, found.mix, found.keep)
        return torch.cat([images[:, None], mixed], dim=1)

    def mixed(self, maps: Tensor, base: Tensor, mix: Tensor, keep: Tensor) -> Tensor:
        """[B, V, 3, S, S]: the crops where they are relevant, mostly AugMix elsewhere.

        Args:
            maps: [B, V, G, G].
            base, mix: [B, V, 3, S, S] crops and their AugMix mixtures.
            keep: [B, V] AugMix's own weight of the crop, for the zone between.
        """
        high, low = zones(enlarged(maps.flatten(0, 1), base.shape[-1]), self.p_high, self.p_low)
        own = keep.flatten()[:, None, None].expand(high.shape)
        weight = torch.where(high, self.m_high, torch.where(low, self.m_low, own)).view(*maps.shape[:2], 1, *base.shape[-2:])
        return weight * base + (1 - weight) * mix

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        assert isinstance(base, Prompted)
        pictures = self.pictures(base, images, keys)
        tuned = self.tune(base, features_of(base, pictures))
        if self.ensemble != "tv":
            return self.answer(tuned)
        weights = self.calm(base, pictures, tuned)
        log = picked(tuned.logits, tuned.selected).log_softmax(-1)
        return (log + weights.log()[..., None]).logsumexp(1)

    def calm(self, base: Prompted, pictures: Tensor, tuned: Tuned) -> Tensor:
        """[B, n] weights of the selected views, the larger the smoother their maps are."""
        return self.smoothness(self.maps(base, picked(pictures, tuned.selected)), pictures.shape[-1])

    def votes(self, base: Prompted, pictures: Tensor, tuned: Tuned) -> Tensor:
        none = torch.zeros_like(tuned.logits[..., 0])
        if self.ensemble == "tv":
            return none.scatter(1, tuned.selected, self.calm(base, pictures, tuned))
        return none.scatter(1, *self.shares(tuned))

    def smoothness(self, maps: Tensor, side: int) -> Tensor:
        """[B, n] softmax(-total variation) of maps [B, n, G, G]."""
        if self.tv_resolution == "pixel":
            maps = enlarged(maps.flatten(0, 1), side).view(*maps.shape[:2], side, side)
        variation, width = total_variation(maps), maps.shape[-1]
        if self.tv_norm == "mean":
            variation = variation / (2 * width * (width - 1))
        return (-variation / self.tv_tau).softmax(1).clamp_min(torch.finfo(maps.dtype).tiny)

    def answer(self, tuned: Tuned) -> Tensor:
        kept, weights = self.shares(tuned)
        return (weights[..., None] * picked(tuned.logits, kept)).sum(1)

    def shares(self, tuned: Tuned) -> tuple[Tensor, Tensor]:
        """[B, n] the views that vote by their logits, and [B, n] their weights."""
        count = tuned.logits.shape[1]
        kept = torch.arange(count, device=tuned.logits.device).expand(tuned.logits.shape[:2])
        if self.vote is not None and self.vote < count:
            kept = entropy(tuned.logits).argsort(dim=1, stable=True)[:, : self.vote]
        if self.ensemble == "neighbour":
            return kept, self.weights(picked(tuned.features, kept))
        return kept, torch.full_like(tuned.logits[:, : kept.shape[1], 0], 1 / kept.shape[1])


METHOD = ATPT
