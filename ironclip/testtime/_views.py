"""An image with its random views, which of them are selected, and cheap surrogates that an attacker makes of a few views."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.types import Classifier
from ironclip.testtime._base import AdaptingClassifier, features_of, plain_head, surrogate
from ironclip.testtime._prompts import entropy
from ironclip.testtime._random_views import random_views

FEW = 8  # views of the surrogates on which nothing is tuned
SOFT = 0.1  # nats of entropy that make one view e times as heavy as another, in place of the hard choice of the most confident


def with_views(images: Tensor, keys: Sequence[int], count: int, *, augmix: bool) -> Tensor:
    """[B, 1 + count, 3, S, S] the images [B, 3, H, W], each followed by random views of it."""
    return torch.cat([images[:, None], random_views(images, keys, count, augmix=augmix).blended], dim=1)


def marked(selected: Tensor, count: int) -> Tensor:
    """[B, count] True at the views [B, n] that were selected."""
    return torch.zeros(len(selected), count, dtype=torch.bool, device=selected.device).scatter(1, selected, True)


def few_views(classifier: Classifier, views: int, *, augmix: bool) -> AdaptingClassifier:
    """The surrogate "views" of a method on `views` random views: the mean logits of the image and a few of them, fresh in every
    step and with nothing tuned (T-VSS's adaptive attack)."""
    return _untuned(classifier, "views", lambda logits: logits.mean(1), views, augmix)


def few_confident(classifier: Classifier, views: int, *, augmix: bool) -> AdaptingClassifier:
    """The surrogate "selection" of a method that trusts its most confident views: the vote of the image and a few views, each by
    how little entropy its prediction has. Its gradient makes wrong views confident and right ones doubtful, which the hard choice
    of the method hides."""
    return _untuned(classifier, "selection", confident_vote, views, augmix)


def _untuned(classifier: Classifier, name: str, vote: Callable[[Tensor], Tensor], views: int, augmix: bool) -> AdaptingClassifier:
    """The surrogate `name`: the vote [B, K] of logits [B, V, K] of the image and a few views."""

    def answer(base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        features = features_of(base, with_views(images, keys, min(FEW, views - 1), augmix=augmix))
        return vote(plain_head(base, "prompt tuning")(features, base.text_features))

    return surrogate(classifier, name, answer, passes=1 + FEW)


def confident_vote(logits: Tensor, log_weights: Tensor | float = 0.0) -> Tensor:
    """[B, K] log probabilities: the mean prediction of views [B, V, K], with weights that are a softmax over views.

    Args:
        log_weights: [B, V] besides -entropy / `SOFT`.
    """
    shares = (log_weights - entropy(logits) / SOFT).log_softmax(1)
    return (shares[..., None] + logits.log_softmax(-1)).logsumexp(1)
