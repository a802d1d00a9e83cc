"""An image with random views of it, the ones chosen among them, and the vote over a few that an attacker has cheaply."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.types import Classifier
from ironclip.testtime._base import AdaptingClassifier, TestTimeMethod, features_of, plain_head
from ironclip.testtime._random_views import random_views

FEW = 8  # views of the surrogate on which nothing is tuned


def with_views(images: Tensor, keys: Sequence[int], count: int, *, augmix: bool) -> Tensor:
    """[B, 1 + count, 3, S, S] the images [B, 3, H, W], each followed by random views of it."""
    return torch.cat([images[:, None], random_views(images, keys, count, augmix=augmix).blended], dim=1)


def marked(selected: Tensor, count: int) -> Tensor:
    """[B, count] True at the views [B, n] that were selected."""
    return torch.zeros(len(selected), count, dtype=torch.bool, device=selected.device).scatter(1, selected, True)


class ViewTuning(TestTimeMethod):
    """A method on random views; an attacker has the mean of a few of them cheaply, without what the method does with them."""

    views: int
    augmix: bool = False

    def fixed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] mean logits of the image and a few views, with nothing tuned."""
        features = features_of(base, with_views(images, keys, min(FEW, self.views - 1), augmix=self.augmix))
        return plain_head(base, "prompt tuning")(features, base.text_features).mean(1)

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """Views with nothing tuned, fresh in every step (T-VSS's adaptive attack), and draws of the whole adaptation; the
        classifier itself is attacked through what it has tuned, found anew in each step."""
        assert isinstance(classifier, AdaptingClassifier)
        surrogate = AdaptingClassifier(self, classifier.base, self.fixed, passes=1 + FEW)
        surrogate.name = "views"
        return (surrogate, *super().surrogates(classifier))
