"""MTA: classify the densest point among the features of random views; no gradient, nothing learned.

Source: arXiv 2405.02266, MaxZanella/MTA (`mta.py::solve_mta`). A mean shift on the sphere whose view weights ("inlierness")
favour views near the mode that predict alike. The published clean numbers use plain crops; the adversarial ones, as
reprinted by R-TPT, use AugMix. Deviations: images of a batch run together, each frozen where the released code stops; views that
coincide do not divide by zero; the prompts are those of the base (released: "a photo of a").

Equations, f_p the feature of view p, s_p its prediction, w_pq = s_p . s_q, b_p the bandwidth, K the kernel:

    K(f_p - m) = exp(-||f_p - m||^2 / b_p)
    y_p <- softmax_p((K(f_p - m) + lambda_q sum_q w_pq y_q) / lambda_y)
    m <- unit(sum_p y_p K(f_p - m) f_p)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.options import check_flags, check_number, check_whole
from ironclip.core.types import Classifier
from ironclip.testtime._base import DRAWS, Observed, TestTimeMethod, features_of, plain_head
from ironclip.testtime._views import few_views, with_views

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Mode:
    """For B images of V views.

    Args:
        affinity: [B, V, V] agreement of predictions.
        bandwidth: [B, V] b_p = 2 h_p^2, mean squared distance to the nearest views.
        inlierness: [B, V] weights of views, sum 1.
        mode: [B, E] unit features that are classified.
    """

    affinity: Tensor
    bandwidth: Tensor
    inlierness: Tensor
    mode: Tensor


class MTA(TestTimeMethod):
    """MeanShift for test-time augmentation.

    Args:
        views: V, the image itself included.
        augmix: AugMix on the random crops.
        agreement: weight of agreeing predictions, lambda_q.
        smoothness: temperature of the weights, lambda_y.
        nearest: share of the other views that sets a view's bandwidth, rho.
        rounds: of weights and mode in turn; each is repeated up to `inner` times or until it moves by less than 1e-6.
        inner: see rounds.
    """

    def __init__(
        self, *, views: int = 64, augmix: bool = False, agreement: float = 4.0, smoothness: float = 0.2, nearest: float = 0.3,
        rounds: int = 5, inner: int = 5, seed: int = 0, draws: int = DRAWS,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=draws)
        check_whole("views", views, 2)
        check_flags(augmix=augmix)
        check_number("agreement", agreement, 0)
        check_number("smoothness", smoothness, 0, above=True)
        check_number("nearest", nearest, 0, 1, above=True)
        check_whole("rounds", rounds, 0)
        check_whole("inner", inner, 1)
        self.views, self.augmix, self.agreement, self.smoothness = views, augmix, agreement, smoothness
        self.nearest, self.rounds, self.inner, self.passes = nearest, rounds, inner, views

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "mta")
        return base

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The mean of a few views, and draws of the views."""
        return (few_views(classifier, self.views, augmix=self.augmix), *super().surrogates(classifier))

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        return plain_head(base, "mta")(self.found(base, self.pictures(images, keys)).mode, base.text_features)

    def observed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Observed:
        pictures = self.pictures(images, keys)
        weights = self.found(base, pictures).inlierness
        return Observed(pictures, weights, torch.zeros_like(weights, dtype=torch.bool))

    def pictures(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, V, 3, S, S] the image and its random views."""
        return with_views(images, keys, self.views - 1, augmix=self.augmix)

    def found(self, base: AdaptedClassifier, pictures: Tensor) -> Mode:
        """The mode among the features of views [B, V, 3, S, S]."""
        features = features_of(base, pictures)
        return self.solve(features, plain_head(base, "mta")(features, base.text_features))

    def solve(self, features: Tensor, logits: Tensor) -> Mode:
        """The mode of unit features [B, V, E] with logits [B, V, K]; differentiable, unrolled."""
        predictions = logits.softmax(-1)
        affinity = predictions @ predictions.transpose(1, 2)
        bandwidth = self.bandwidth(features)
        weights = torch.full_like(bandwidth, 1 / bandwidth.shape[1])
        mode = features[:, 0]

        def kernel(at: Tensor) -> Tensor:
            return torch.exp(-(features - at[:, None]).square().sum(-1) / bandwidth)

        def weigh(y: Tensor) -> Tensor:
            pull = self.agreement * (affinity @ y[..., None])[..., 0]
            return ((near + pull) / self.smoothness).softmax(1)

        def shift(m: Tensor) -> Tensor:
            return F.normalize(((kernel(m) * weights)[..., None] * features).sum(1), dim=-1)

        for _ in range(self.rounds):
            near = kernel(mode)
            weights = _repeat(weigh, weights, self.inner)
            mode = _repeat(shift, mode, self.inner)
        return Mode(affinity, bandwidth, weights, mode)

    def bandwidth(self, features: Tensor) -> Tensor:
        """[B, V] mean squared distance of each view to its nearest others."""
        count = max(1, int(self.nearest * (features.shape[1] - 1)))
        squares = torch.stack([(features - features[:, view, None]).square().sum(-1) for view in range(features.shape[1])], dim=1)
        nearest = squares.sort(dim=2).values[..., 1 : count + 1]
        return nearest.mean(2).clamp_min(torch.finfo(features.dtype).eps)


def _repeat(update: Callable[[Tensor], Tensor], values: Tensor, times: int) -> Tensor:
    """values [B, N] updated until they move by less than `TOLERANCE`, each row on its own."""
    moving = torch.ones(len(values), 1, dtype=torch.bool, device=values.device)
    for _ in range(times):
        after = update(values)
        moved = (after - values).norm(dim=1, keepdim=True) >= TOLERANCE
        values = torch.where(moving, after, values)
        moving = moving & moved.detach()
    return values


METHOD = MTA
