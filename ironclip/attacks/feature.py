"""Label-free attack on embeddings: moves the image's features as far as the radius allows.

Source: FARE (arXiv 2402.12336): squared distance to the clean embedding, not normalised, summed over dimensions [code:
chs20/RobustVLM]; "cosine": 1 - cos; "kl": AdvPT (arXiv 2311.11261), KL of the softmaxes over the embedding, KL(clean || attacked)
[code: jiamingzhang94/Adversarial-Prompt-Tuning]. At the image itself the gradient is zero, so the start is random.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.attacks import inputs
from ironclip.attacks._goal import scores
from ironclip.attacks._options import AttackOptions
from ironclip.attacks.pgd import PGD, Keep
from ironclip.core.losses import kl_each, squared_distance_each
from ironclip.core.options import check_choice
from ironclip.core.threat import Norm
from ironclip.core.types import Images

Distance = Literal["squared", "cosine", "kl"]
DISTANCES: dict[str, Any] = {
    "squared": squared_distance_each,
    "cosine": lambda features, clean: 1 - F.cosine_similarity(features, clean, dim=1),
    "kl": kl_each,
}


@dataclass(frozen=True)
class Feature(AttackOptions):
    """Images in the ball and in [0, 1] whose features are far from those of the clean images.

    Args:
        distance: "squared", "cosine" or "kl".
        others: as in `PGD`; the random start is uniform.
    """

    eps: float
    step_size: float | None = None
    steps: int = 100
    restarts: int = 1
    distance: Distance = "squared"
    keep: Keep = "best"
    norm: Norm = "linf"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("distance", self.distance, get_args(Distance))
        check_choice("keep", self.keep, get_args(Keep))

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {"step_size": self.eps / 4 if self.step_size is None else self.step_size}

    def perturb(
        self, function: Images, images: Tensor, labels: Tensor, positions: Tensor, *, noise: Tensor | None = None
    ) -> Tensor:
        """See `AttackOptions.__call__`.

        Args:
            function: a classifier with `encode_image(images) -> [B, E]` is attacked there; of any other function the
                outputs are the features.
            labels: [B], checked and not used.
        """
        encode = getattr(function, "encode_image", function)
        with inputs.borrowed(function, self.eval_mode):
            clean = scores(encode, images).flatten(1)
            rank = torch.arange(len(images), device=images.device)  # carried as labels: which clean features belong to an image

            def far(outputs: Tensor, rows: Tensor) -> Tensor:
                return DISTANCES[self.distance](outputs.flatten(1), clean[rows])

            shared = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "distance"}
            return PGD(loss=far, **shared).perturb(encode, images, rank, positions, noise=noise)


ATTACK = Feature
