"""What an attacker of A-TPT differentiates besides the answer: the attention maps, the zones they cut, the weights they give.

To the method its maps are constants, zones are steps, and the choice of confident views is hard. Here maps are differentiated
(second derivatives of the scores), and steps become smooth: with q the quantile that bounds a zone, a pixel of relevance a
belongs to it by sigmoid((a - q) / `SLOPE`). A few views, nothing tuned.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.testtime._base import features_of, plain_head
from ironclip.testtime._random_views import Views, random_views
from ironclip.testtime._relevance import enlarged
from ironclip.testtime._views import FEW, confident_vote

SLOPE = 0.05  # of the range of a map, [0, 1]
PASSES = 5 * (1 + FEW)  # of the image tower: of views and of two maps, whose second derivatives cost about as much again


def attended(method: Any, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
    """[B, K] log probabilities of the vote over the image and a few guided views, differentiable through guidance and weights."""
    graph = images.requires_grad and torch.is_grad_enabled()
    found = random_views(
        images, keys, min(FEW, method.views - 1), augmix=method.augmix, crop=method.base == "crop" or not method.guided
    )
    mixed = softly_mixed(method, method.maps(base, found.base, graph=graph), found) if method.guided else found.blended
    views = torch.cat([images[:, None], mixed], dim=1)
    logits = plain_head(base, "prompt tuning")(features_of(base, views), base.text_features)
    weights = method.tv_weights(base, views, graph=graph).log() if method.ensemble == "tv" else 0.0
    return confident_vote(logits, weights)


def softly_mixed(method: Any, maps: Tensor, found: Views) -> Tensor:
    """[B, V, 3, S, S] as `ATPT.mixed`, with zones of smooth bounds; far from them the same."""
    side = found.base.shape[-1]
    pixels = enlarged(maps.flatten(0, 1), side)
    top, bottom = (pixels.flatten(1).quantile(q, dim=1)[:, None, None] for q in (1 - method.p_high, method.p_low))
    high, low = ((pixels - top) / SLOPE).sigmoid(), ((bottom - pixels) / SLOPE).sigmoid()
    own = found.keep.flatten()[:, None, None]
    m_high, m_low = method.base_weights
    weight = (own + (m_high - own) * high + (m_low - own) * low).view(*maps.shape[:2], 1, side, side)
    return weight * found.base + (1 - weight) * method.replacement(found)
