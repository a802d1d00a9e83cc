"""The engine under all methods that tune context words at test time, for many images at once."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.backbones import AdaptedClassifier
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.core.types import Classifier
from ironclip.testtime._base import DRAWS, Observed, TestTimeMethod, features_of, plain_head, surrogate
from ironclip.testtime._parts import Parts, Selected, Tuned
from ironclip.testtime._prompts import AdamW, Prompted, picked
from ironclip.testtime._views import few_confident, few_views, marked

GRADIENTS = ("stop", "full")


class TestTimePromptTuning(TestTimeMethod):
    """A few steps on the context words of each image. A method is its `parts`: views, selection, objective, vote.

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
    def parts(self) -> Parts:
        """The four parts, made of the options."""

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "prompt tuning")
        return Prompted(base, self.prompt)

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """A few views with nothing tuned, with equal shares and by their confidence, and draws of the whole adaptation; the
        classifier itself is attacked through what it has tuned, found anew in each step."""
        few = [make(classifier, self.views, augmix=self.augmix) for make in (few_views, few_confident)]
        if (through := self.parts().through) is not None:
            few.append(surrogate(classifier, through.name, through.logits, through.passes))
        return (*few, *super().surrogates(classifier))

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        assert isinstance(base, Prompted)
        parts = self.parts()
        return parts.vote.answer(self.tuned(base, parts.views(base, images, keys)))

    def observed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Observed:
        assert isinstance(base, Prompted)
        parts = self.parts()
        views = parts.views(base, images, keys)
        tuned = self.tuned(base, views)
        return Observed(views, parts.vote.shares(tuned), marked(tuned.selected, views.shape[1]) & (self.steps > 0))

    def tuned(self, base: Prompted, views: Tensor) -> Tuned:
        """What tuning found on views [B, V, 3, S, S], the image first."""
        weigh = self.parts().weigh
        each = None if weigh is None else lambda selected: weigh(base, picked(views, selected))
        return self.tune(base, features_of(base, views), each)

    def tune(self, base: Prompted, features: Tensor, weigh: Callable[[Tensor], Tensor] | None = None) -> Tuned:
        """The tuned context of each image, a fresh start for every one.

        Args:
            features: [B, V, E] unit features of the views; they may carry a graph.
            weigh: numbers [B, n] of the selected views -> their weights [B, n]; None: they have none.
        """
        head, whole = plain_head(base, "prompt tuning"), self.gradient == "full" and features.requires_grad
        seen = features if whole else features.detach()
        first = base.text_features
        start = head(features, first)
        selected = self.parts().select(start.detach())
        chosen = picked(seen, selected)
        weights = None if weigh is None else weigh(selected)
        context, step = base.start.expand(len(features), *base.start.shape), AdamW(self.lr, self.weight_decay)
        with torch.set_grad_enabled(True), sdpa_kernel(SDPBackend.MATH if whole else list(FASTEST)):
            for number in range(self.steps):
                if number == 0:
                    slope = self.first_gradient(base, chosen, whole, weights)
                else:
                    slope = self.next_gradient(base, context, chosen, whole, weights)
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

    def loss(self, base: Prompted, chosen: Tensor, text: Tensor, weights: Tensor | None) -> Tensor:
        """The sum over images of the objective, of unit features [B, n, E] of the selected views and text features [B, K, E]."""
        logits = plain_head(base, "prompt tuning")(chosen, text)
        return self.parts().objective(Selected(logits, text, weights)).sum()

    def first_gradient(self, base: Prompted, chosen: Tensor, whole: bool, weights: Tensor | None = None) -> Tensor:
        """[B, M, D] gradients at the start, by one product with the shared text graph for each image."""
        text = base.text_features.expand(len(chosen), *base.text_features.shape).clone().requires_grad_()
        (cotangents,) = torch.autograd.grad(self.loss(base, chosen, text, weights), text, create_graph=whole)
        return base.pull(cotangents, create_graph=whole)

    def next_gradient(
        self, base: Prompted, context: Tensor, chosen: Tensor, whole: bool, weights: Tensor | None = None
    ) -> Tensor:
        """[B, M, D] gradients at contexts that differ from image to image."""
        leaf = context if whole and context.requires_grad else context.detach().clone().requires_grad_()
        loss = self.loss(base, chosen, base.encode(leaf), weights)
        return torch.autograd.grad(loss, leaf, create_graph=whole)[0]


FASTEST = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
