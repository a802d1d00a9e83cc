"""ET3: one or two steps on the pixels that lower the energy of the class scores, then classify; every image, without a gate.

Source: arXiv 2603.26984, OmnAI-Lab/Energy-Guided-Test-Time-Defense (`CLIP/clip_benchmark/metrics/zeroshot_classification.py`).
The distance from x is clipped to eps in every value [code; the paper's text projects onto a Euclidean ball]. Meant for
adversarially trained towers. Deviations: alpha is scaled to the size of the image [inferred: the released one is for 224 pixels],
so that the step per value stays the same.

Equations, t_k the text features, t the temperature:

    E(x) = -t logsumexp_k(100 cos(f(x), t_k) / t)
    y <- clip_eps(clamp(y - alpha grad E(y) / ||grad E(y)||, 0, 1)),  from y = x
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_number, check_whole
from ironclip.core.tensors import norm, per_image
from ironclip.core.types import Classifier
from ironclip.testtime._base import TestTimeMethod, plain_head, surrogate

SIDE = 224  # pixels of the images for which the released step is meant
SCALE = 100.0  # of the cosines; the released code does not read the model's own
FLOOR = 1e-8  # of the length of a gradient


class Energetic(AdaptedClassifier):
    """The base with the unit text features [K', E] of the labels whose energy is lowered."""

    def __init__(self, base: AdaptedClassifier, energy_text: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update(base.__dict__)
        self.energy_text = energy_text


class ET3(TestTimeMethod):
    """Energy-guided test-time transformation. To an attacker the change of the pixels is a constant, found anew in each step
    (BPDA).

    Args:
        alpha: Euclidean length of a step on a 224-pixel image with values in [0, 1].
        eps: radius around the image, in the unit of the images.
        steps: N.
        temperature: t of the energy.
        proxy: file with one label per line, whose energy is lowered in place of that of the classes; None: the classes.
        seed: unused; the method draws nothing.
    """

    def __init__(
        self, *, alpha: float = 2.5, eps: float = 5 / 255, steps: int = 2, temperature: float = 1.0, proxy: str | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=1)
        check_number("alpha", alpha, 0)
        check_number("eps", eps, 0, 1)
        check_whole("steps", steps, 0)
        check_number("temperature", temperature, 0, above=True)
        self.alpha, self.eps, self.steps, self.temperature, self.proxy = alpha, eps, steps, temperature, proxy
        self.passes = steps + 1

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "et3")
        if self.proxy is None:
            return base
        with torch.no_grad():
            labels = AdaptedClassifier(base.backbone, labels_of(self.proxy), base.adaptation, base.precision)
        return Energetic(base, labels.text_features)

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        still = images.detach()
        moved = self.transformed(base, still)[-1]
        return base((images + moved - still).clamp(0, 1))

    def energy(self, base: AdaptedClassifier, images: Tensor) -> Tensor:
        """[B] E of images [B, 3, H, W]."""
        text = getattr(base, "energy_text", base.text_features)
        scores = SCALE * F.normalize(base.encode_image(images), dim=-1) @ text.T
        return -self.temperature * (scores / self.temperature).logsumexp(1)

    def transformed(self, base: AdaptedClassifier, images: Tensor, *, graph: bool = False) -> Tensor:
        """[N + 1, B, 3, H, W] the images and every iterate.

        Args:
            graph: keep the graph of the steps, second derivatives and all; else the iterates are constants.
        """
        step, seen = self.alpha * images.shape[-2] / SIDE, [images]
        for _ in range(self.steps):
            with torch.enable_grad():
                leaf = seen[-1] if graph else seen[-1].detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.energy(base, leaf).sum(), leaf, create_graph=graph)
            unit = slope / per_image(norm(slope, "l2").clamp_min(FLOOR), slope)
            delta = ((seen[-1] - step * unit).clamp(0, 1) - images).clamp(-self.eps, self.eps)
            seen.append((images + delta).clamp(0, 1))
        return torch.stack(seen)

    def joint(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] sum of the log probabilities of the image and of the transformed one."""
        return base(images).log_softmax(1) + self.logits(base, images, keys).log_softmax(1)

    def unrolled(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] logits differentiated through the steps, too."""
        graph = images.requires_grad and torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH):
            return base(self.transformed(base, images if graph else images.detach(), graph=graph)[-1])

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The image with the transformed one, and the whole with second derivatives."""
        joint = surrogate(classifier, "joint", self.joint, passes=self.passes + 1)
        return joint, surrogate(classifier, "unrolled", self.unrolled, passes=3 * self.passes)


def labels_of(file: str) -> tuple[str, ...]:
    """The labels of a text file, one per line; UsageError where there are none to read."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"proxy names a text file with one label per line; cannot read {file!r}: {error}") from None
    labels = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(labels) < 2:
        raise UsageError(f"proxy names a text file with one label per line, at least two; {file!r} has {len(labels)}")
    return labels


METHOD = ET3
