"""DBD: walk from the image's embedding along the mean shift of its confident views, far where all shifts point alike.

Source: arXiv 2606.06186, liuls2002/DBD (`infer_dbd.py`). With l = 1 the answer is that of the mean of the kept features.
Deviations: the views come from the model's own crop for every image (released: from the file, so that clean and attacked images
see different filters); grey levels are clipped (released: 256 becomes 0); the prompts are those of the base (released: with
sentences of a language model).

Equations, F_v the unit features of the views, F_0 the image's own, R the `kept` views of lowest entropy (never view 0):

    D_i = F_i - F_0 for i in R,  m = mean_i D_i,  score = mean_i cos(D_i, m)
    l = gain where score > theta, else 1
    answer: s cos(F_0 + l m, T)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_number, check_whole
from ironclip.core.types import Batch, Classifier
from ironclip.testtime._base import DRAWS, Observed, TestTimeMethod, features_of, image_keys, plain_head, surrogate
from ironclip.testtime._changed_views import FIXED, changed_views
from ironclip.testtime._gate import calibrated, sloping
from ironclip.testtime._prompts import entropy, picked
from ironclip.testtime._views import marked

SMALL = 1e-8  # added to every length, as released


@dataclass(frozen=True)
class Shift:
    """For B images: mean shift m [B, E], its DB-score [B], and the views [B, n] it is made of."""

    mean: Tensor
    score: Tensor
    selected: Tensor


class DBD(TestTimeMethod):
    """Directional bias-guided defence; no gradient, nothing learned.

    Args:
        theta: DB-score above which the shift is stretched; 0.8 is tuned on OpenAI's towers. None: calibrated on clean training
            images.
        stretched: share of the clean images above a calibrated theta [inferred].
        gain: lambda, how far along the shift; 1: the mean of the kept views.
        kept: views of lowest entropy that make the shift, of all but the image.
        crops, noisy: how many random crops and noisy copies; nine more views have no randomness.
        sigma: standard deviation of the noise, in the unit of the images.
        softness: of the switch that an attacker differentiates, in cosine [inferred].
    """

    def __init__(
        self, *, theta: float | None = 0.8, stretched: float = 0.05, gain: float = 2.5, kept: int = 16, crops: int = 16,
        noisy: int = 6, sigma: float = 0.1, softness: float = 0.05, seed: int = 0, draws: int = DRAWS,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=draws)
        if theta is not None:
            check_number("theta", theta, -2, 2)
        check_number("stretched", stretched, 0, 1)
        check_number("gain", gain, 0)
        check_whole("crops", crops, 0)
        check_whole("noisy", noisy, 0)
        check_whole("kept", kept, 1)
        check_number("sigma", sigma, 0)
        check_number("softness", softness, 0, above=True)
        views = crops + noisy + FIXED
        if kept > views:
            raise UsageError(f"kept is at most {views}, the number of views besides the image; got {kept}")
        self.theta, self.stretched, self.gain, self.kept = theta, stretched, gain, kept
        self.crops, self.noisy, self.sigma, self.softness, self.passes = crops, noisy, sigma, softness, 1 + views

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "dbd")
        return base

    def prepare(self, base: Classifier, batches: Iterable[Batch]) -> None:
        """The threshold from these images, where the option says theta=None; else the images are not asked for."""
        if self.theta is None:
            score = lambda base, images: self.found(base, images, image_keys(images, self.seed))[1].score  # noqa: E731
            self.theta, count = calibrated(score, base, batches, 1 - self.stretched)
            share = f"{100 * self.stretched:g} % of {count} clean training images lie above"
            self.notes = (f"dbd: theta {self.theta:.4f} calibrated: {share}",)

    def check_base(self, base: AdaptedClassifier) -> None:
        if self.theta is None:
            raise UsageError("dbd has no threshold yet: put it on a run whose training images are there, or state theta")

    def pictures(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, V, 3, S, S] the image and its changed copies."""
        changed = changed_views(images, keys, crops=self.crops, noisy=self.noisy, sigma=self.sigma)
        return torch.cat([images[:, None], changed], dim=1)

    def found(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> tuple[Tensor, Shift]:
        """[B, E] unit features of the images, and their shift."""
        features = features_of(base, self.pictures(images, keys))
        return features[:, 0], self.shift(features, plain_head(base, "dbd")(features, base.text_features))

    def shift(self, features: Tensor, logits: Tensor) -> Shift:
        """The shift from unit features [B, V, E] and logits [B, V, K] of the views, the image first."""
        selected = 1 + entropy(logits[:, 1:]).argsort(dim=1, stable=True)[:, : self.kept]
        single = picked(features, selected) - features[:, :1]
        mean = single.mean(1)
        along = (single * mean[:, None]).sum(-1)
        score = along / ((single.norm(dim=-1) + SMALL) * (mean.norm(dim=-1, keepdim=True) + SMALL))
        return Shift(mean, score.mean(1), selected)

    def answer(self, base: AdaptedClassifier, own: Tensor, mean: Tensor, length: Tensor | float) -> Tensor:
        """[B, K] logits of own [B, E] plus `length` times the shift mean [B, E]."""
        h = own + length * mean
        return plain_head(base, "dbd")(h / (h.norm(dim=-1, keepdim=True) + SMALL), base.text_features)

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        own, shift = self.found(base, images, keys)
        assert self.theta is not None
        length = torch.where(shift.score > self.theta, self.gain, 1.0).to(own)
        return self.answer(base, own, shift.mean, length[:, None])

    def observed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Observed:
        pictures, (_, shift) = self.pictures(images, keys), self.found(base, images, keys)
        weights = marked(shift.selected, pictures.shape[1]).to(images.dtype) / self.kept
        return Observed(pictures, weights, torch.zeros_like(weights, dtype=torch.bool))

    def plain(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] logits of the mean of the kept views, whatever the score says."""
        own, shift = self.found(base, images, keys)
        return self.answer(base, own, shift.mean, 1.0)

    def switched(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] log probabilities with a smooth switch: as `softness` goes to 0, those of the method itself."""
        own, shift = self.found(base, images, keys)
        assert self.theta is not None
        far, near = (self.answer(base, own, shift.mean, length) for length in (self.gain, 1.0))
        return sloping((shift.score - self.theta) / self.softness, far, near)

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The mean of the views, which answers where the score is low; the smooth switch; and draws of the views."""
        mean, switch = surrogate(classifier, "mean", self.plain), surrogate(classifier, "switch", self.switched)
        return (mean, switch, *super().surrogates(classifier))


METHOD = DBD
