"""A-TPT: R-TPT on views that keep the image where the model looks and replace the rest by aggressive augmentation.

Source: arXiv 2605.19956 (abstract and digests; the full text could not be read) and SEU-VIPGroup/A-TPT (`atpt.py`), which are not
the same method. `VARIANTS` holds every option in which they differ. With b a base view, x an augmented view of it, A the map of
the mixed view x' and B the confident views:

    paper   x' = M x + (1 - M) b, M = m_high where the map of b is high, m_low where it is low
            w = softmax(-TV(A)) over B; loss = sum_B w H(p); answer = sum_B w p
    code    x' = M b + (1 - M) x, x the mixture before AugMix's skip connection, b a random crop
            loss = mean_B H(p); answer = sum of all views' logits, by R-TPT's neighbour weights

Deviations: maps use the start prompt (released: that of the image before); the map's token products are taken after the first
norm in variant "paper" (at the block's input they are rounding noise in the last block, see the card).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.testtime._attention_attack import PASSES, attended
from ironclip.testtime._parts import LogitVote, Parts, ProbabilityVote, Selected, Through, Vote, confident, reliability
from ironclip.testtime._prompts import Prompted, entropy, share
from ironclip.testtime._random_views import Views, random_views
from ironclip.testtime._relevance import enlarged, relevance_maps, total_variation, zones
from ironclip.testtime._tuning import TestTimePromptTuning

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {
        "ensemble": "tv", "loss_weights": "tv", "tokens_at": "after_ln1", "layer_weights": (1.0, 1.0), "base": "whole",
        "target": "augmix", "m_of": "augmented", "m_high": 0.2, "m_low": 0.8, "tv_map": "raw", "tv_norm": "sum", "tv_tau": 1.0,
    },
    "code": {
        "ensemble": "neighbour", "loss_weights": "uniform", "tokens_at": "block_input", "layer_weights": (0.5, 1.0),
        "base": "crop", "target": "mix", "m_of": "base", "m_high": 0.8, "m_low": 0.2, "tv_map": "stretched", "tv_norm": "mean",
        "tv_tau": 0.01,
    },
}  # fmt: skip
CHOICES = {
    "ensemble": ("tv", "neighbour", "uniform"),
    "loss_weights": ("uniform", "tv"),
    "tokens_at": ("after_ln1", "block_input"),
    "base": ("crop", "whole"),
    "target": ("mix", "augmix"),
    "m_of": ("base", "augmented"),
    "tv_map": ("raw", "stretched"),
    "tv_norm": ("mean", "sum"),
    "rollout": ("token_gradient", "attention_gradient", "attention"),
    "layers": ("last_two", "last", "previous", "full"),
    "tv_resolution": ("grid", "pixel"),
}


class ATPT(TestTimePromptTuning):
    """Attention-guided views, then R-TPT's step.

    Args:
        neighbours, temperature, legacy_mask: of R-TPT's weights, where the ensemble is "neighbour".
        variant: "paper" or "code": its `VARIANTS` where an option is None.
        ensemble: weights of the vote: "tv" [paper], "neighbour" (R-TPT's) [code] or "uniform".
        loss_weights: of the confident views in the loss: "tv" (those of the vote) [paper] or "uniform" [code].
        tokens_at: where tokens meet their gradients: "block_input" [code] or "after_ln1" [inferred].
        layer_weights: of the last but one and the last block in the average: 1 : 1 [paper], 0.5 : 1 [code].
        guidance: False: R-TPT's views.
        base: what is kept where the map is high: "whole", the model's own crop with a random flip [paper], or a random "crop"
            [code].
        target: what replaces the rest: AugMix's view, "augmix" [paper], or its mixture before the skip connection, "mix" [code].
        rollout: "token_gradient"; "attention_gradient" (attention times its gradient) and "attention" (of the last block) are
            ablations.
        layers: "last_two"; "last" and "previous" take one block, "full" is the product over all of them.
        p_high, p_low: shares of pixels that are most and least relevant; together at most 1.
        m_of: whose weight m_high and m_low are: of the "augmented" view [paper] or of the "base" [code].
        m_high, m_low: that weight where the map is high and low; between them AugMix's own. The paper has m_high < m_low.
        clip: quantile at which maps are clipped before zones are cut.
        vote: neighbour and uniform: how many views of lowest tuned entropy vote; None: all.
        tv_map: total variation of the rollout as it is, "raw" [paper], or clipped and "stretched" to [0, 1] [inferred].
        tv_resolution: "grid" or "pixel": where the total variation is taken [inferred].
        tv_norm: "sum" over pairs of neighbours [paper] or their "mean" [inferred].
        tv_tau: temperature of the softmax; 1 is none [paper].
    """

    def __init__(
        self,
        *,
        neighbours: int = 20,
        temperature: float = 0.01,
        legacy_mask: bool = False,
        variant: str = "paper",
        ensemble: str | None = None,
        loss_weights: str | None = None,
        tokens_at: str | None = None,
        layer_weights: Sequence[float] | None = None,
        guidance: bool = True,
        base: str | None = None,
        target: str | None = None,
        rollout: str = "token_gradient",
        layers: str = "last_two",
        p_high: float = 0.2,
        p_low: float = 0.8,
        m_of: str | None = None,
        m_high: float | None = None,
        m_low: float | None = None,
        clip: float = 0.99,
        vote: int | None = None,
        tv_map: str | None = None,
        tv_resolution: str = "grid",
        tv_norm: str | None = None,
        tv_tau: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_whole("neighbours", neighbours, 1)
        check_number("temperature", temperature, 0, above=True)
        check_flags(legacy_mask=legacy_mask)
        check_choice("variant", variant, tuple(VARIANTS))
        given: dict[str, Any] = {
            "ensemble": ensemble, "loss_weights": loss_weights, "tokens_at": tokens_at, "layer_weights": layer_weights,
            "base": base, "target": target, "m_of": m_of, "m_high": m_high, "m_low": m_low, "tv_map": tv_map,
            "tv_norm": tv_norm, "tv_tau": tv_tau,
        }  # fmt: skip
        chosen = {name: VARIANTS[variant][name] if value is None else value for name, value in given.items()}
        for name, value in {**chosen, "rollout": rollout, "layers": layers, "tv_resolution": tv_resolution}.items():
            if name in CHOICES:
                check_choice(name, value, CHOICES[name])
        weights = tuple(chosen["layer_weights"])
        if len(weights) != 2:
            raise UsageError(f"layer_weights are two numbers, of the last but one and the last block; got {weights}")
        for weight in weights:
            check_number("layer_weights", weight, 0)
        check_flags(guidance=guidance)
        shares = {"p_high": p_high, "p_low": p_low, "m_high": chosen["m_high"], "m_low": chosen["m_low"], "clip": clip}
        for name, value in shares.items():
            check_number(name, value, 0, 1)
        if p_high + p_low > 1 + 1e-9:
            raise UsageError(f"p_high + p_low is at most 1; got {p_high} + {p_low}")
        if vote is not None:
            check_whole("vote", vote, 1)
        check_number("tv_tau", chosen["tv_tau"], 0, above=True)
        self.neighbours, self.temperature, self.legacy_mask = neighbours, temperature, legacy_mask
        self.variant, self.guidance, self.rollout, self.layers, self.vote = variant, guidance, rollout, layers, vote
        self.ensemble: str = chosen["ensemble"]
        self.loss_weights: str = chosen["loss_weights"]
        self.tokens_at: str = chosen["tokens_at"]
        self.layer_weights: tuple[float, float] = (weights[0], weights[1])
        self.base, self.target, self.m_of = chosen["base"], chosen["target"], chosen["m_of"]
        self.p_high, self.p_low, self.m_high, self.m_low, self.clip = shares.values()
        self.tv_map, self.tv_norm, self.tv_tau = chosen["tv_map"], chosen["tv_norm"], chosen["tv_tau"]
        self.tv_resolution = tv_resolution
        self.guided = guidance and self.augmix and self.views > 1
        looks = "tv" in (self.ensemble, self.loss_weights)
        self.passes = self.views + self.guided * (self.views - 1) + (share(self.select, self.views) if looks else 0)

    def check_base(self, base: AdaptedClassifier) -> None:
        spec = base.backbone.spec
        if spec.kind not in ("vit", "resnet"):
            raise UsageError(f"atpt reads the attention of open_clip's ViT, or RN50; {spec.name} is neither")
        if spec.kind == "vit" and not spec.class_token:
            raise UsageError(f"atpt reads where the class token looks; {spec.name} averages all tokens instead")

    def parts(self) -> Parts:
        weighted = self.loss_weights == "tv"
        return Parts(
            views=self.guided_views,
            select=confident(self.select),
            weigh=self.tv_weights if weighted or self.ensemble == "tv" else None,
            objective=weighted_entropy if weighted else lambda seen: entropy(seen.logits).mean(-1),
            vote=self.view_vote(),
            through=Through("attention", partial(attended, self), PASSES) if self.guided or self.ensemble == "tv" else None,
        )

    def view_vote(self) -> Vote:
        """The vote that the option `ensemble` names."""
        if self.ensemble == "tv":
            return ProbabilityVote()
        if self.ensemble == "uniform":
            return LogitVote(surest=self.vote)
        return LogitVote(reliability(self.neighbours, self.temperature, self.legacy_mask), self.vote)

    def guided_views(self, base: Prompted, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, V, 3, S, S] the image and its mixed views x'; without guidance R-TPT's views."""
        crop = self.base == "crop" or not self.guided
        found = random_views(images, keys, self.views - 1, augmix=self.augmix, crop=crop)
        mixed = self.mixed(self.maps(base, found.base), found) if self.guided else found.blended
        return torch.cat([images[:, None], mixed], dim=1)

    def maps(self, base: AdaptedClassifier, views: Tensor, *, graph: bool = False) -> Tensor:
        """[..., G, G] relevance maps in [0, 1] of views [..., 3, S, S] under the start prompt; constants without `graph`."""
        return self._rolled_out(base, views, self.clip, graph)

    def _rolled_out(self, base: AdaptedClassifier, views: Tensor, clip: float | None, graph: bool) -> Tensor:
        flat = relevance_maps(
            base, views.flatten(0, -4), base.text_features, rollout=self.rollout, tokens_at=self.tokens_at, layers=self.layers,
            layer_weights=self.layer_weights, clip=clip, graph=graph,
        )  # fmt: skip
        return flat.view(*views.shape[:-3], *flat.shape[1:])

    def mixed(self, maps: Tensor, found: Views) -> Tensor:
        """[B, V, 3, S, S]: the base views where they are relevant by their maps [B, V, G, G], mostly augmented elsewhere."""
        side = found.base.shape[-1]
        high, low = zones(enlarged(maps.flatten(0, 1), side), self.p_high, self.p_low)
        own = found.keep.flatten()[:, None, None].expand(high.shape)
        m_high, m_low = self.base_weights
        weight = torch.where(high, m_high, torch.where(low, m_low, own)).view(*maps.shape[:2], 1, side, side)
        return weight * found.base + (1 - weight) * self.replacement(found)

    @property
    def base_weights(self) -> tuple[float, float]:
        """Weights of the base view where its map is high and low."""
        high, low = (m if self.m_of == "base" else 1 - m for m in (self.m_high, self.m_low))
        return high, low

    def replacement(self, found: Views) -> Tensor:
        """[B, V, 3, S, S] what takes the place of the base view."""
        return found.mix if self.target == "mix" else found.blended

    def tv_weights(self, base: AdaptedClassifier, views: Tensor, *, graph: bool = False) -> Tensor:
        """[B, n] softmax(-total variation of the maps) of views [B, n, 3, S, S]; constants without `graph`."""
        maps = self._rolled_out(base, views, None if self.tv_map == "raw" else self.clip, graph)
        return self.smoothness(maps, views.shape[-1])

    def smoothness(self, maps: Tensor, side: int) -> Tensor:
        """[B, n] softmax(-total variation) of maps [B, n, G, G]."""
        if self.tv_resolution == "pixel":
            maps = enlarged(maps.flatten(0, 1), side).view(*maps.shape[:2], side, side)
        variation, width = total_variation(maps), maps.shape[-1]
        if self.tv_norm == "mean":
            variation = variation / (2 * width * (width - 1))
        return (-variation / self.tv_tau).softmax(1).clamp_min(torch.finfo(maps.dtype).tiny)


def weighted_entropy(seen: Selected) -> Tensor:
    """[B] sum_B w H(p) over the selected views."""
    assert seen.weights is not None
    return (seen.weights * entropy(seen.logits)).sum(-1)


METHOD = ATPT
