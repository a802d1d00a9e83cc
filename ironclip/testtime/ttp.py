"""TTP: where padding an image changes its embedding, train the padding for one step and let padded views vote.

Source: arXiv 2512.16523, read in summaries; no released code could be had, so nothing here is compared with numbers of its
authors. Where s > tau the image counts as clean and is classified as it is. Ours [inferred]: the border lies outside the image
and the whole is resized to the tower's size; it is H/7 pixels wide (32 at 224); theta is uniform in [0, 10] for pixels in [0, 1],
and clamped after the step; the fixed border is black; the image is one of the views; K is a tenth of N; the views are those of
R-TPT.

Equations, P_fix(x) the image in a fixed border, B the K of N views with the lowest entropy, P_theta(x_i) view i in the border
theta that its views share, z_i and p_i its feature and prediction:

    s = cos(f(x), f(P_fix(x)))
    theta <- theta - eta grad_theta mean_{i in B} H(p_i)
    w = softmax_{i in B}(cos(z_i, f(P_fix(x))) - cos(z_i, f(x))),  answer: sum_i w_i p_i
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.backbones import AdaptedClassifier
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.core.tensors import generator
from ironclip.core.types import Classifier
from ironclip.testtime._base import DRAWS, TestTimeMethod, features_of, plain_head, surrogate
from ironclip.testtime._gate import sloping
from ironclip.testtime._prompts import entropy, most_confident, picked, share
from ironclip.testtime._tuning import FASTEST, GRADIENTS
from ironclip.testtime._views import few_views, with_views

RANGE = 10.0  # of theta, for pixels from 0 to 1
BORDER = 11  # keeps the draw of the border apart from those of the views


class TTP(TestTimeMethod):
    """Test-time padding.

    Args:
        tau: cosine up to which an image counts as attacked.
        padding: width of the border as a share of the image's side; 0: no image counts as attacked.
        views: N, the image itself included.
        augmix: AugMix on the random crops.
        select: share of the views, those of lowest entropy, that train the border and vote.
        lr: eta, of the one step on theta.
        gradient: what an attacker differentiates: "stop" holds the trained border constant, "full" goes through its step, too.
        softness: of the gate that an attacker differentiates, in cosine [inferred].
    """

    def __init__(
        self, *, tau: float = 0.8, padding: float = 1 / 7, views: int = 64, augmix: bool = True, select: float = 0.1,
        lr: float = 5.0, gradient: str = "stop", softness: float = 0.05, seed: int = 0, draws: int = DRAWS,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=draws)
        check_number("tau", tau, -2, 2)
        check_number("padding", padding, 0, 4)
        check_whole("views", views, 1)
        check_flags(augmix=augmix)
        check_number("select", select, 0, 1, above=True)
        check_number("lr", lr, 0)
        check_choice("gradient", gradient, GRADIENTS)
        check_number("softness", softness, 0, above=True)
        self.tau, self.padding, self.views, self.augmix, self.select, self.lr = tau, padding, views, augmix, select, lr
        self.gradient, self.softness = gradient, softness
        self.passes = 2 + views + 2 * share(select, views)

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "ttp")
        return base

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        features, padded = self.encoded(base, images)
        clean = plain_head(base, "ttp")(features, base.text_features).log_softmax(1)
        rows = (self.agreement(features, padded).detach() <= self.tau).nonzero().flatten()
        if not len(rows):
            return clean
        voted = self.voted(base, images[rows], [keys[row] for row in rows.tolist()], features[rows], padded[rows])
        return clean.index_copy(0, rows, voted)

    def encoded(self, base: AdaptedClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, E] unit features of the images, and of the images in the fixed border."""
        both = features_of(base, torch.stack([images, self.padded(images, None)], dim=1))
        return both[:, 0], both[:, 1]

    def agreement(self, features: Tensor, padded: Tensor) -> Tensor:
        """[B] cosine of two rows of unit features; above 1 where there is no border."""
        return (features * padded).sum(-1) if self.padding else torch.full_like(features[:, 0], torch.inf)

    def padded(self, images: Tensor, border: Tensor | None) -> Tensor:
        """[..., 3, S, S] images [..., 3, S, S] in a border, resized to their own size.

        Args:
            border: [..., 3, S + 2p, S + 2p] theta, of which only the border is seen; None: black.
        """
        side, p = images.shape[-1], self.width(images.shape[-1])
        canvas = F.pad(images, (p, p, p, p))
        if border is not None:
            canvas = canvas + border / RANGE * F.pad(torch.zeros_like(images[..., :1, :, :]), (p, p, p, p), value=1.0)
        flat = F.interpolate(canvas.flatten(0, -4), size=(side, side), mode="bilinear", align_corners=False)
        return flat.view(*canvas.shape[:-3], 3, side, side)

    def width(self, side: int) -> int:
        """Pixels of the border on each side of an image of this size."""
        return round(self.padding * side)

    def voted(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int], own: Tensor, padded: Tensor) -> Tensor:
        """[B, K] log probabilities of flagged images, whose unit features are own [B, E], in the fixed border padded [B, E]."""
        head, text = plain_head(base, "ttp"), base.text_features
        views = with_views(images, keys, self.views - 1, augmix=self.augmix)
        with torch.no_grad():
            selected = most_confident(head(features_of(base, views.detach()), text), share(self.select, self.views))
        chosen = picked(views, selected)
        border = self.trained(base, chosen, self.start(images, keys))
        features = features_of(base, self.padded(chosen, border[:, None]))
        weights = self.weights(features, padded, own)
        return (weights.log()[..., None] + head(features, text).log_softmax(-1)).logsumexp(1)

    def start(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, 3, S + 2p, S + 2p] theta before the step."""
        side = images.shape[-1] + 2 * self.width(images.shape[-1])
        return RANGE * torch.stack([torch.rand(3, side, side, generator=generator(key, BORDER)) for key in keys]).to(images)

    def trained(self, base: AdaptedClassifier, views: Tensor, start: Tensor) -> Tensor:
        """[B, 3, S + 2p, S + 2p] theta after one step on the mean entropy of views [B, n, 3, S, S]; constant unless the
        gradient is "full"."""
        graph = self.gradient == "full" and views.requires_grad
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH if graph else list(FASTEST)):
            theta = start.detach().requires_grad_()
            rows = self.padded(views if graph else views.detach(), theta[:, None]).flatten(0, 1)
            features = F.normalize(base.encode_image(rows), dim=-1).unflatten(0, views.shape[:2])
            loss = entropy(plain_head(base, "ttp")(features, base.text_features)).mean(1)
            (slope,) = torch.autograd.grad(loss.sum(), theta, create_graph=graph)
        return (start - self.lr * slope).clamp(0, RANGE)

    def weights(self, features: Tensor, padded: Tensor, own: Tensor) -> Tensor:
        """[B, n] shares of the views: near the padded image and far from the received one."""
        return ((features * padded[:, None]).sum(-1) - (features * own[:, None]).sum(-1)).softmax(1)

    def gated(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] log probabilities with a smooth gate: as `softness` goes to 0, those of the method itself."""
        features, padded = self.encoded(base, images)
        clean = plain_head(base, "ttp")(features, base.text_features)
        lean = (self.tau - self.agreement(features, padded)) / self.softness
        return sloping(lean, self.voted(base, images, keys, features, padded), clean)

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """A smooth gate, views with nothing trained, and draws of the whole adaptation."""
        gate = (surrogate(classifier, "gate", self.gated),) if self.padding else ()
        return (*gate, few_views(classifier, self.views, augmix=self.augmix), *super().surrogates(classifier))


METHOD = TTP
