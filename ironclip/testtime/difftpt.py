"""DiffTPT: TPT with generated views beside the random ones, filtered by how much their predictions look like the image's.

Source: arXiv 2308.06038, chunmeifeng/DiffTPT. The diffusion model is not part of this package: `generator` is a function
(images [B, 3, S, S], keys, count) -> [B, count, 3, S, S] in [0, 1], which must be differentiable for white-box attacks to pass
through it. Without one no generated views are added, which the published method does not offer.

Equations, V' the views kept: the most similar ones to the image, of these the most confident:

    L = H(1/|V'| sum_{v in V'} p(. | v)),  answer: p(. | x) with the prompt after one step
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.core.errors import UsageError
from ironclip.core.options import check_number, check_whole
from ironclip.testtime._parts import ImageAlone, Parts
from ironclip.testtime._prompts import Prompted, marginal_entropy, most_confident, picked, share
from ironclip.testtime._tuning import TestTimePromptTuning
from ironclip.testtime._views import with_views

Generator = Callable[[Tensor, Sequence[int], int], Tensor]


class DiffTPT(TestTimePromptTuning):
    """Marginal entropy over views that look like the image and are confident.

    Args:
        generator: a function; None: no generated views. Text is refused: code is named by the caller (see `testtime.called`).
        generated: views asked of the generator.
        similar: share of the other views kept, those whose logits have the largest cosine with the image's.
        select: share of what is left that the loss is taken on.
    """

    def __init__(
        self, *, generator: Generator | None = None, generated: int = 63, similar: float = 0.8, select: float = 0.3,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(select=select, **options)
        check_whole("generated", generated, 0)
        check_number("similar", similar, 0, 1, above=True)
        if generator is not None and not callable(generator):
            raise UsageError(f"generator is a function, and named by the caller alone, not by a file; got {generator!r}")
        self.generator = generator
        self.generated, self.similar = generated if generator is not None else 0, similar
        self.passes = self.views + self.generated

    def parts(self) -> Parts:
        return Parts(
            views=self.with_generated,
            select=self.similar_and_confident,
            objective=lambda seen: marginal_entropy(seen.logits),
            vote=ImageAlone(),
        )

    def with_generated(self, base: Prompted, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, V + generated, 3, S, S] the image, its random views and the generated ones.

        Raises:
            UsageError: the generator returned another shape.
        """
        views = with_views(images, keys, self.views - 1, augmix=self.augmix)
        if self.generator is None or not self.generated:
            return views
        made = self.generator(images, keys, self.generated)
        wanted = (len(images), self.generated, *images.shape[1:])
        if made.shape != wanted:
            raise UsageError(f"the generator must return views of shape {wanted}; got {tuple(made.shape)}")
        return torch.cat([views, made], dim=1)

    def similar_and_confident(self, logits: Tensor) -> Tensor:
        """[B, n] of logits [B, V, K]: the views most like the image, the image among them, and of these the most confident."""
        alike = F.cosine_similarity(logits[:, 1:], logits[:, :1], dim=-1)
        kept = 1 + alike.argsort(dim=1, descending=True, stable=True)[:, : int(self.similar * alike.shape[1])]
        kept = torch.cat([kept.new_zeros(len(kept), 1), kept], dim=1)
        return kept.gather(1, most_confident(picked(logits, kept), share(self.select, kept.shape[1])))


METHOD = DiffTPT
