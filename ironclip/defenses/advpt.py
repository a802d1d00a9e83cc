"""AdvPT: learn the context words on a bank of adversarial image features that is made once.

Source: arXiv 2311.11261; official code jiamingzhang94/Adversarial-Prompt-Tuning (trainers/advpt.py, attack/attackFeature.py).
Learned: `context` [M, D], 16,384 parameters for ViT-B and M = 32. The bank holds the features of every training image, attacked
once on the frozen image tower alone, without labels and without prompts. No image passes the tower while the prompts are tuned.

Equations, g the features of the frozen tower, not normalised, t(v) the text features with the context v:

    x' = argmax_{||x' - x|| <= eps} KL(softmax(g(x)) || softmax(g(x')))  [code]
    min_v CE(s cos(g(x'), t(v)), y)

Caution: prompts that are tuned on such features are not robust to an attack through them. The published numbers are made against
the frozen tower, which does not know the prompts; here the attack of an evaluation sees the whole classifier unless it is told
otherwise, and a static number is marked as one.

Deviations: the bank belongs to one run and is made again where a run continues or the attack changes (the code reuses a file
named after data set and backbone alone); a row of the bank is made when its image is first met; float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ironclip.backbones import ScaledCosine, assemble
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, ImageOutput
from ironclip.defenses._families import kl_from
from ironclip.defenses.apt import APT


class AdvPT(APT):
    """Context words tuned on adversarial features.

    Args:
        length: M, number of learned words; ignored with `init`. Default: 32, or as many as the context holds, as for APT.
        position: "end" puts the class name last, "front" first, "middle" between the halves of the context.
        init: words whose embeddings the context starts from; default N(0, 0.02^2).
    """

    usual_length = 32

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int | None = None,
        position: Literal["end", "middle", "front"] = "end",
        init: str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(backbone, classes, length=length, position=position, init=init, generator=generator)
        self._bank = FeatureBank()

    def prepare(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        """Store the sum of the pixels of every image, so that augmented images are refused: the bank holds each image once."""
        self._bank = FeatureBank(
            {int(index): image.sum() for batch in batches for index, image in zip(batch.indices, batch.images)}
        )

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        features = self._bank.features(backbone, batch, attack)
        text = assemble(backbone, batch.classes, adaptation or self.adaptation(backbone, batch.classes)).text_features
        logits = ScaledCosine(backbone.spec.logit_scale, backbone.spec.logit_bias)(ImageOutput(features), text)
        return {"adv_ce": cross_entropy(logits, batch.labels)}


class FeatureBank:
    """Adversarial features of images by their position in the data set, each made once with one attack on one backbone.

    Args:
        sums: position -> sum of the pixels of its image, to be checked; empty: not checked.
    """

    def __init__(self, sums: dict[int, Tensor] | None = None) -> None:
        self.sums = sums or {}
        self.rows: dict[int, Tensor] = {}
        self.made_with: tuple[Any, Any] | None = None

    def features(self, backbone: Backbone, batch: Batch, attack: Attack) -> Tensor:
        """[B, E] features, not normalised and constant.

        Raises:
            UsageError: an image is augmented, or the attack starts at the clean image.
        """
        attack = _seedless(attack)  # the keys of a run change with its epochs, and a bank is made once
        if self.made_with is None or self.made_with[0] is not backbone or self.made_with[1] != attack:
            self.rows, self.made_with = {}, (backbone, attack)
        missing = [place for place, index in enumerate(batch.indices.tolist()) if index not in self.rows]
        if missing:
            images, indices = batch.images[missing], batch.indices[missing]
            self._check(images, indices.tolist())
            with torch.no_grad():
                clean = backbone.encode_image(images)
            adv = attack(backbone.encode_image, images, batch.labels[missing], indices=indices, loss=kl_from(clean, attack))
            with torch.no_grad():
                self.rows |= dict(zip(indices.tolist(), backbone.encode_image(adv).float().unbind(), strict=True))
        return torch.stack([self.rows[index] for index in batch.indices.tolist()])

    def _check(self, images: Tensor, indices: list[int]) -> None:
        for image, index in zip(images, indices, strict=True):
            known = self.sums.get(index)
            if known is not None and not torch.isclose(image.sum(), known.to(image), rtol=1e-4):
                raise UsageError("AdvPT banks every image once, as it is, so augmentation has no place in it; set augment=none")


def _seedless(attack: Attack) -> Attack:
    seeded = is_dataclass(attack) and hasattr(attack, "seed")
    return replace(attack, seed=0) if seeded else attack  # type: ignore[type-var]


METHOD = AdvPT
