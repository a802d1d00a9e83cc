"""CSR: where an image and its low-pass copy disagree, move the pixels so that the embedding approaches that of the copy.

Source: arXiv 2601.19210, Summu77/CSR (`csr/defense/csr.py`). A flagged image takes steps of sign ascent inside a ball around
itself; other images are classified as they are. At the start the gradient of the second term is zero, so the first step follows
the anchor alone. Deviations: float32; the radius of the filter is scaled to the size of the image [inferred: the released one is
for 224 pixels]; the start itself is a candidate [code; the paper's text counts from the first step]. The released fast module
with N steps is this one with N - 1.

Equations, f the unit image features, low(x) the low-pass copy, a = f(low(x)), o = f(x), P the projection onto the ball:

    flagged where a . o < tau
    S(y) = f(y) . a - lambda f(y) . o,  y <- P(y + step sign grad_y S(y))
    answer: p(. | y with the largest S)  [code]
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.tensors import ascend, per_image
from ironclip.core.types import Batch, Classifier
from ironclip.testtime._base import TestTimeMethod, surrogate
from ironclip.testtime._gate import calibrated, sloping

FILTERS = ("gaussian", "butterworth", "ideal")
SIDE = 224  # pixels of the images for which the released radius is meant


class CSR(TestTimeMethod):
    """Contrastive spectral rectification. To an attacker the rectification is a constant, found anew in each step (BPDA).

    Args:
        tau: cosine below which an image is flagged; 0.85 is tuned on OpenAI's towers. None: calibrated on clean training
            images.
        flagged: share of the clean images that a calibrated tau flags [inferred].
        filter: low-pass mask: "gaussian", "butterworth" or "ideal".
        radius: of the filter, in frequency bins of a 224-pixel image.
        order: of the Butterworth filter.
        eps, step_size: of the rectification, in the unit of the images.
        steps: N.
        repulsion: lambda, weight of the distance from the received image; 1 in the released code.
        softness: of the gate that an attacker differentiates, in cosine [inferred].
        seed: unused; the method draws nothing.
    """

    def __init__(
        self, *, tau: float | None = 0.85, flagged: float = 0.05, filter: str = "gaussian", radius: float = 40.0, order: int = 2,
        eps: float = 4 / 255, step_size: float = 2 / 255, steps: int = 3, repulsion: float = 1.0, softness: float = 0.05,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=1)
        if tau is not None:
            check_number("tau", tau, -2, 2)
        check_number("flagged", flagged, 0, 1)
        check_choice("filter", filter, FILTERS)
        check_number("radius", radius, 0, above=True)
        check_whole("order", order, 1)
        check_number("eps", eps, 0, 1)
        check_number("step_size", step_size, 0, above=True)
        check_whole("steps", steps, 0)
        check_number("repulsion", repulsion, 0)
        check_number("softness", softness, 0, above=True)
        self.tau, self.flagged, self.filter, self.radius, self.order = tau, flagged, filter, radius, order
        self.eps, self.step_size, self.steps, self.repulsion, self.softness = eps, step_size, steps, repulsion, softness
        self.passes = steps + 4

    def prepare(self, base: Classifier, batches: Iterable[Batch]) -> None:
        """The threshold from these images, where the option says tau=None; else the images are not asked for."""
        if self.tau is None:
            self.tau, count = calibrated(self.consistency, base, batches, self.flagged)
            self.notes = (
                f"csr: tau {self.tau:.4f} calibrated: {100 * self.flagged:g} % of {count} clean training images lie below",
            )

    def check_base(self, base: AdaptedClassifier) -> None:
        if self.tau is None:
            raise UsageError("csr has no threshold yet: put it on a run whose training images are there, or state tau")

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        assert self.tau is not None
        delta = torch.zeros_like(images)
        with torch.no_grad():
            rows = (self.consistency(base, images) < self.tau).nonzero().flatten()
        if len(rows):
            still = images.detach()[rows]
            delta = delta.index_copy(0, rows, self.rectified(base, still) - still)
        return base((images + delta).clamp(0, 1))

    def low_pass(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] the images without high frequencies, in [0, 1]."""
        height, width = images.shape[-2:]
        rows, columns = (torch.fft.fftfreq(n, 1 / n, device=images.device).to(images) for n in (height, width))
        distance = (rows[:, None].square() + columns.square()).sqrt() / (self.radius * height / SIDE)
        if self.filter == "gaussian":
            mask = (-distance.square() / 2).exp()
        elif self.filter == "butterworth":
            mask = 1 / (1 + distance ** (2 * self.order))
        else:
            mask = (distance <= 1).to(images)
        return torch.fft.ifft2(torch.fft.fft2(images) * mask).real.clamp(0, 1)

    def consistency(self, base: AdaptedClassifier, images: Tensor) -> Tensor:
        """[B] cosine of the features of each image and of its low-pass copy."""
        return F.cosine_similarity(base.encode_image(images), base.encode_image(self.low_pass(images)), dim=-1)

    def score(self, base: AdaptedClassifier, images: Tensor, anchor: Tensor, own: Tensor) -> Tensor:
        """[B] S of images, from unit features [B, E] of the low-pass copies and of the received images."""
        return (F.normalize(base.encode_image(images), dim=-1) * (anchor - self.repulsion * own)).sum(-1)

    def rectified(self, base: AdaptedClassifier, images: Tensor) -> Tensor:
        """[B, 3, H, W] the iterate of largest S of each image, whatever the gate says; constants."""
        with torch.no_grad():
            anchor = F.normalize(base.encode_image(self.low_pass(images)), dim=-1)
            own = F.normalize(base.encode_image(images), dim=-1)
        best, held = images, images.new_full((len(images),), -torch.inf)

        def keep(now: Tensor, outputs: Tensor, values: Tensor) -> None:
            nonlocal best, held
            better = values > held
            best, held = torch.where(per_image(better, now), now, best), torch.where(better, values, held)

        last = ascend(
            lambda y: self.score(base, y, anchor, own), lambda values: values, images, images,
            eps=self.eps, step_size=self.step_size, steps=self.steps, observe=keep,
        )  # fmt: skip
        with torch.no_grad():
            values = self.score(base, last, anchor, own)
        keep(last, values, values)
        return best

    def joint(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] sum of the log probabilities of the image and of its low-pass copy: where both are wrong, the anchor pulls to a
        wrong class."""
        return base(images).log_softmax(1) + base(self.low_pass(images)).log_softmax(1)

    def gated(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] log probabilities with a smooth gate: as `softness` goes to 0, those of the method itself."""
        assert self.tau is not None
        still = images.detach()
        moved = base((images + self.rectified(base, still) - still).clamp(0, 1))
        return sloping((self.tau - self.consistency(base, images)) / self.softness, moved, base(images))

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """Image and low-pass copy together, and the defence with a smooth gate."""
        joint = surrogate(classifier, "joint", self.joint, passes=2)
        return joint, surrogate(classifier, "gate", self.gated, passes=self.passes + 2)


METHOD = CSR
