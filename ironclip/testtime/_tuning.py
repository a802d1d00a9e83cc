"""The engine under all methods that tune context words at test time, for many images at once."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.backbones import AdaptedClassifier
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.testtime._base import DRAWS, Observed, features_of, plain_head
from ironclip.testtime._prompts import AdamW, Prompted, most_confident, picked, share
from ironclip.testtime._views import ViewTuning, marked, with_views

GRADIENTS = ("stop", "full")
Objective = Callable[[Tensor, Tensor], Tensor]
"""(logits [B, n, K] of the selected views, text features [B, K, E]) -> [B] what is lowered."""


@dataclass(frozen=True)
class Tuned:
    """What tuning found for B images.

    Args:
        features: [B, V, E] unit image features of the views; view 0 is the image.
        start: [B, V, K] logits with the start context.
        selected: [B, n] the views whose loss was lowered.
        context: [B, M, D] (or [B, K, M, D]) the tuned context; the start where there is no step.
        text: [B, K, E] unit text features of it.
        logits: [B, V, K] of all views with it.
        weights: [B, n] of the selected views in the loss, where they are not alike.
    """

    features: Tensor
    start: Tensor
    selected: Tensor
    context: Tensor
    text: Tensor
    logits: Tensor
    weights: Tensor | None = None


class TestTimePromptTuning(ViewTuning):
    """Views, selection, a few steps on the context, an answer. A method says what is lowered and how views are joined.

    Args:
        views: V, the image itself included.
        augmix: AugMix on the random crops; the published runs switch it off on the ImageNet family.
        select: share of the views, those of lowest entropy, on which the loss is taken.
        steps: of AdamW; 0: no tuning.
        lr, weight_decay: of AdamW.
        prompt: words to start from; None: "a photo of a", or the context that the base has learned; "domain": that of the
            data set in A-TPT's code, where the data set is known.
        gradient: what an attacker differentiates: "stop" holds the tuned context constant, "full" goes through the tuning too.
    """

    def __init__(
        self,
        *,
        views: int = 64,
        augmix: bool = True,
        select: float = 0.1,
        steps: int = 1,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        prompt: str | None = None,
        gradient: str = "stop",
        seed: int = 0,
        draws: int = DRAWS,
    ) -> None:
        super().__init__(seed=seed, draws=draws)
        check_whole("views", views, 1)
        check_flags(augmix=augmix)
        check_number("select", select, 0, 1, above=True)
        check_whole("steps", steps, 0)
        check_number("lr", lr, 0)
        check_number("weight_decay", weight_decay, 0)
        check_choice("gradient", gradient, GRADIENTS)
        self.views, self.augmix, self.select, self.steps = views, augmix, select, steps
        self.lr, self.weight_decay, self.prompt, self.gradient = lr, weight_decay, prompt, gradient
        self.passes = views

    @abstractmethod
    def objective(self, logits: Tensor, text: Tensor) -> Tensor:
        """[B] what is lowered: logits [B, n, K] of the selected views, text features [B, K, E]."""

    @abstractmethod
    def answer(self, tuned: Tuned) -> Tensor:
        """[B, K] logits of the images."""

    def choose(self, logits: Tensor) -> Tensor:
        """[B, n] the views on which the loss is taken, from their logits [B, V, K] with the start context."""
        return most_confident(logits, share(self.select, logits.shape[1]))

    def pictures(self, base: Prompted, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, V, 3, S, S] the views, the image first."""
        return with_views(images, keys, self.views - 1, augmix=self.augmix)

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "prompt tuning")
        return Prompted(base, self.prompt)

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        assert isinstance(base, Prompted)
        return self.answer(self.tuned(base, self.pictures(base, images, keys)))

    def tuned(self, base: Prompted, pictures: Tensor) -> Tuned:
        """What tuning found on views [B, V, 3, S, S], the image first."""
        return self.tune(base, features_of(base, pictures))

    def weighted(self, logits: Tensor, weights: Tensor) -> Tensor:
        """[B] the objective with weights [B, n] for the selected views, in a method that has such weights."""
        raise NotImplementedError

    def tune(self, base: Prompted, features: Tensor, weigh: Callable[[Tensor], Tensor] | None = None) -> Tuned:
        """The tuned context of each image, a fresh start for every one.

        Args:
            features: [B, V, E] unit features of the views; they may carry a graph.
            weigh: selected views [B, n] -> their weights [B, n] in the objective; default: it has none.
        """
        head, whole = plain_head(base, "prompt tuning"), self.gradient == "full" and features.requires_grad
        seen = features if whole else features.detach()
        first = base.text_features
        start = head(features, first)
        selected = self.choose(start.detach())
        chosen = picked(seen, selected)
        weights = None if weigh is None else weigh(selected)
        lowered = None if weights is None else lambda logits, text: self.weighted(logits, weights)
        context, step = base.start.expand(len(features), *base.start.shape), AdamW(self.lr, self.weight_decay)
        with torch.set_grad_enabled(True), sdpa_kernel(SDPBackend.MATH if whole else list(FASTEST)):
            for number in range(self.steps):
                if number == 0:
                    slope = self._first_slope(base, chosen, whole, lowered)
                else:
                    slope = self._slope(base, context, chosen, whole, lowered)
                context = step(context, slope)
                context = context if whole else context.detach()
            if self.steps == 0:
                text = first.expand(len(features), *first.shape)
            elif whole:
                text = base.encode(context)
            else:
                with torch.no_grad():
                    text = base.encode(context)
        return Tuned(features, start, selected, context, text, head(features, text), weights)

    def _first_slope(self, base: Prompted, chosen: Tensor, whole: bool, lowered: Objective | None = None) -> Tensor:
        """[B, M, D] gradients at the start, by one product with the shared text graph for each image."""
        text = base.text_features.expand(len(chosen), *base.text_features.shape).clone().requires_grad_()
        loss = (lowered or self.objective)(plain_head(base, "prompt tuning")(chosen, text), text).sum()
        (cotangents,) = torch.autograd.grad(loss, text, create_graph=whole)
        return base.pull(cotangents, create_graph=whole)

    def _slope(self, base: Prompted, context: Tensor, chosen: Tensor, whole: bool, lowered: Objective | None = None) -> Tensor:
        """[B, M, D] gradients at contexts that differ from image to image."""
        leaf = context if whole and context.requires_grad else context.detach().clone().requires_grad_()
        text = base.encode(leaf)
        loss = (lowered or self.objective)(plain_head(base, "prompt tuning")(chosen, text), text).sum()
        return torch.autograd.grad(loss, leaf, create_graph=whole)[0]

    def observed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Observed:
        assert isinstance(base, Prompted)
        pictures = self.pictures(base, images, keys)
        tuned = self.tuned(base, pictures)
        chosen = marked(tuned.selected, pictures.shape[1])
        return Observed(pictures, self.votes(base, pictures, tuned), chosen & (self.steps > 0))

    def votes(self, base: Prompted, pictures: Tensor, tuned: Tuned) -> Tensor:
        """[B, V] shares of the views, of sum 1. Default: the selected views alike, for the image alone answers."""
        return marked(tuned.selected, pictures.shape[1]).to(pictures.dtype) / tuned.selected.shape[1]


FASTEST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
