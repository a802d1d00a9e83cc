"""TTC: push an image that is suspiciously stable under noise away from its own embedding, then classify it.

Source: arXiv 2503.03613, Sxing2/CLIP-Test-time-Counterattacks (`test_time_counterattack.py`). An attacked image moves little in
feature space under random noise. Where the relative shift is below a threshold, a few steps raise the distance to the image's own
embedding; elsewhere the noise is kept, as released. Deviations: float32; text encoded once; only images that pass the gate
are stepped; the model's own crop.

Equations, n uniform noise of radius eps, delta_0 = n, P the projection onto the ball of radius eps:

    r(x) = ||f(x + n) - f(x)|| / ||f(x)||
    delta_{t+1} = P(delta_t + step sign grad ||f(x + delta_t) - f(x)||^2)  where r(x) < tau
    delta = sum_t softmax_t(beta t) delta_t  where r(x) < tau, else n
    answer: p(. | x + delta)
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.losses import squared_distance_each
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.tensors import ascend, generator
from ironclip.core.types import Classifier
from ironclip.testtime._base import DRAWS, TestTimeMethod, surrogate
from ironclip.testtime._gate import sloping


class Counterattack(TestTimeMethod):
    """Noise, gate and mean of iterates. To an attacker the counter-perturbation is a constant, found anew in each step (BPDA).

    Args:
        eps: radius of noise and counterattack, in the unit of the images.
        step_size: of the counterattack.
        steps: N; the published rows at 4/255 use more than 2, how many is not known.
        beta: weight exp(beta t) of iterate t in the average.
        tau: relative shift below which an image is counterattacked.
        gate: whose features decide: "original", the unadapted backbone [code, for fine-tuned encoders], or "base".
        softness: of the gate that an attacker differentiates, as a share of tau [inferred].
    """

    def __init__(
        self, *, eps: float = 4 / 255, step_size: float = 1 / 255, steps: int = 2, beta: float = 2.0, tau: float = 0.2,
        gate: str = "original", softness: float = 0.25, seed: int = 0, draws: int = DRAWS,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=draws)
        check_number("eps", eps, 0, 1)
        check_number("step_size", step_size, 0, above=True)
        check_whole("steps", steps, 0)
        check_number("beta", beta, 0)
        check_number("tau", tau, 0)
        check_choice("gate", gate, ("original", "base"))
        check_number("softness", softness, 0, above=True)
        self.eps, self.step_size, self.steps, self.beta, self.tau, self.gate = eps, step_size, steps, beta, tau, gate
        self.softness = softness
        self.passes = 2 * steps + 3

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        delta = self.counter(base, images.detach(), self.noise(images, keys))
        return base((images + delta).clamp(0, 1))

    def noise(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1], the draw of each key."""
        draws = torch.stack([torch.rand(images.shape[1:], generator=generator(key)) for key in keys])
        return 2 * draws.to(images) - 1

    def start(self, images: Tensor, noise: Tensor) -> Tensor:
        """[B, 3, H, W] the noisy images, where the counterattack begins."""
        return (images + self.eps * noise).clamp(0, 1)

    def counter(self, base: AdaptedClassifier, images: Tensor, noise: Tensor) -> Tensor:
        """[B, 3, H, W] what is added to the images; constants.

        Args:
            noise: [B, 3, H, W] in [-1, 1].
        """
        start = self.start(images, noise)
        delta = start - images
        with torch.no_grad():
            rows = (self.shift(base, images, start) < self.tau).nonzero().flatten()
        if len(rows):
            delta = delta.index_copy(0, rows, self.push(base, images[rows], start[rows]))
        return delta

    def shift(self, base: AdaptedClassifier, images: Tensor, noisy: Tensor) -> Tensor:
        """[B] relative change of the features, not normalised, from images to their noisy copies."""
        encode = base.encode_image if self.gate == "base" else base.backbone.encode_image
        features = encode(images)
        return (encode(noisy) - features).norm(dim=1) / features.norm(dim=1)

    def push(self, base: AdaptedClassifier, images: Tensor, start: Tensor) -> Tensor:
        """[B, 3, H, W] the counterattack on images [B, 3, H, W]: a mean of its iterates; later ones weigh more."""
        iterates = self.iterates(base, images, start)
        weights = (self.beta * torch.arange(len(iterates), device=images.device).to(images)).softmax(0)
        return torch.einsum("t,tbchw->bchw", weights, iterates)

    @abstractmethod
    def iterates(self, base: AdaptedClassifier, images: Tensor, start: Tensor) -> Tensor:
        """[N+1, B, 3, H, W] perturbations: the start and every step away from the images' own features."""

    def noisy(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] logits with the noise alone, whatever the gate says."""
        return self.alone(base, images, self.start(images.detach(), self.noise(images, keys)))

    def alone(self, base: AdaptedClassifier, images: Tensor, start: Tensor) -> Tensor:
        """[B, K] logits of the noisy images [B, 3, H, W], whose noise is a constant to the attacker."""
        return base((images + start - images.detach()).clamp(0, 1))

    def gated(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] log probabilities with a smooth gate instead of a step: its gradient also says how to avoid the counterattack by
        moving more under noise. As `softness` goes to 0, those of the method itself."""
        noisy, still = self.start(images, self.noise(images, keys)), images.detach()
        start = noisy.detach()
        lean = (self.tau - self.shift(base, images, noisy)) / (self.softness * self.tau)
        pushed = base((images + self.push(base, still, start)).clamp(0, 1))
        return sloping(lean, pushed, self.alone(base, images, start))

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The defence without counterattack, which is what an image meets that moves enough under noise; the defence with a
        smooth gate; and draws of the noise."""
        noise = surrogate(classifier, "noise", self.noisy, passes=1)
        gate = (surrogate(classifier, "gate", self.gated, passes=self.passes + 2),) if self.tau > 0 else ()
        return (noise, *gate, *super().surrogates(classifier))


class TTC(Counterattack):
    """Test-time counterattack: steps of sign ascent."""

    def iterates(self, base: AdaptedClassifier, images: Tensor, start: Tensor) -> Tensor:
        with torch.no_grad():
            own = base.encode_image(images)
        seen: list[Tensor] = []
        last = ascend(
            base.encode_image,
            lambda features: squared_distance_each(features, own),
            start,
            images,
            eps=self.eps,
            step_size=self.step_size,
            steps=self.steps,
            observe=lambda now, outputs, values: seen.append(now),
        )
        return torch.stack([*seen, last]) - images


METHOD = TTC
