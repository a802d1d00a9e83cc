"""An image with its random views, which of them are selected, and the mean over a few views as a cheap surrogate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.types import Classifier
from ironclip.testtime._base import AdaptingClassifier, features_of, plain_head, surrogate
from ironclip.testtime._random_views import random_views

FEW = 8  # views of the surrogate on which nothing is tuned


def with_views(images: Tensor, keys: Sequence[int], count: int, *, augmix: bool) -> Tensor:
    """[B, 1 + count, 3, S, S] the images [B, 3, H, W], each followed by random views of it."""
    return torch.cat([images[:, None], random_views(images, keys, count, augmix=augmix).blended], dim=1)


def marked(selected: Tensor, count: int) -> Tensor:
    """[B, count] True at the views [B, n] that were selected."""
    return torch.zeros(len(selected), count, dtype=torch.bool, device=selected.device).scatter(1, selected, True)


def few_views(classifier: Classifier, views: int, *, augmix: bool) -> AdaptingClassifier:
    """The surrogate "views" of a method on `views` random views: the mean logits of the image and a few of them, fresh in every
    step and with nothing tuned (T-VSS's adaptive attack)."""

    def untuned(base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        features = features_of(base, with_views(images, keys, min(FEW, views - 1), augmix=augmix))
        return plain_head(base, "prompt tuning")(features, base.text_features).mean(1)

    return surrogate(classifier, "views", untuned, passes=1 + FEW)
