"""AOM-style: move the image's embedding towards the mean embedding of its noisy copies, then classify. [inferred]

Source: "On the Zero-shot Adversarial Robustness of Vision-Language Models: A Truly Zero-shot and Training-free Approach"
(CVPR 2025). Only the abstract could be read and no code was found: noise undoes part of an attack, noisy embeddings serve as
anchors, the embedding moves along the path to them. Noise level, number of copies and step are ours.

Equations [inferred], z = f(x) / ||f(x)||, M noisy copies, eta the step:

    a = unit(1/M sum_m unit(f(x + sigma n_m))),  n_m ~ N(0, I)
    answer: s cos(unit(z + eta (a - z)), T)
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.options import check_number, check_whole
from ironclip.core.tensors import generator
from ironclip.testtime._base import DRAWS, TestTimeMethod, features_of, plain_head


class AOM(TestTimeMethod):
    """Training-free anchors from noisy copies.

    Args:
        sigma: standard deviation of the noise, in the unit of the images [inferred].
        copies: noisy copies per image, M [inferred].
        step: 0: the embedding stays; 1: the anchor itself; above 1: past it [inferred].
    """

    def __init__(
        self, *, sigma: float = 16 / 255, copies: int = 16, step: float = 1.0, seed: int = 0, draws: int = DRAWS
    ) -> None:
        super().__init__(seed=seed, draws=draws)
        check_number("sigma", sigma, 0, 1)
        check_whole("copies", copies, 1)
        check_number("step", step, 0)
        self.sigma, self.copies, self.step, self.passes = sigma, copies, step, copies + 1

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "aom")
        return base

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        noise = torch.stack([torch.randn(self.copies, *images.shape[1:], generator=generator(key)) for key in keys])
        noisy = (images[:, None] + self.sigma * noise.to(images)).clamp(0, 1)
        features = F.normalize(base.encode_image(images), dim=-1)
        anchor = F.normalize(features_of(base, noisy).mean(1), dim=-1)
        moved = F.normalize(features + self.step * (anchor - features), dim=-1)
        return plain_head(base, "aom")(moved, base.text_features)


METHOD = AOM
