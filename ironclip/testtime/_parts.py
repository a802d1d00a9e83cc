"""The parts of a method that tunes context words for each image: views, selection, objective, vote.

One image x goes through them in this order, with o_v the logits of view v and T the text features of the context:

    views      x -> x_1 = x, x_2, ..., x_V
    select     V' = the views whose start logits are taken into the loss
    objective  L = objective(o_v for v in V', T); AdamW lowers it for a few steps
    vote       answer = vote(o_1, ..., o_V) with the tuned context
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ironclip.testtime._base import Logits
from ironclip.testtime._prompts import Prompted, entropy, most_confident, neighbour_weights, picked, share
from ironclip.testtime._views import marked, with_views


@dataclass(frozen=True)
class Selected:
    """What an objective is given for B images.

    Args:
        logits: [B, n, K] of the selected views.
        text: [B, K, E] unit text features.
        weights: [B, n] of the selected views, where the method has a part `weigh`; constants.
    """

    logits: Tensor
    text: Tensor
    weights: Tensor | None = None


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
        weights: [B, n] of the selected views, where the method has a part `weigh`.
    """

    features: Tensor
    start: Tensor
    selected: Tensor
    context: Tensor
    text: Tensor
    logits: Tensor
    weights: Tensor | None = None


class Vote(Protocol):
    """How the views answer."""

    def answer(self, tuned: Tuned) -> Tensor:
        """[B, K] logits of the images."""
        ...

    def shares(self, tuned: Tuned) -> Tensor:
        """[B, V] weight of each view in the answer, sum 1."""
        ...


Views = Callable[[Prompted, Tensor, Sequence[int]], Tensor]
"""(classifier, images [B, 3, S, S], keys [B]) -> [B, V, 3, S, S] the views, the image first."""
Selection = Callable[[Tensor], Tensor]
"""logits [B, V, K] with the start context -> [B, n] numbers of the views on which the loss is taken."""
Objective = Callable[[Selected], Tensor]
"""-> [B] what is lowered."""
Weigh = Callable[[Prompted, Tensor], Tensor]
"""(classifier, selected views [B, n, 3, S, S]) -> [B, n] their weights, constants."""


@dataclass(frozen=True)
class Through:
    """What an attacker differentiates in place of something that the method holds constant.

    Args:
        name: of the surrogate.
        logits: (base, images, keys) -> logits.
        passes: of the image tower per image.
    """

    name: str
    logits: Logits
    passes: int


@dataclass(frozen=True)
class Parts:
    """A method, part by part; `weigh` only where the objective or the vote reads weights of the selected views, `through` only
    where views or weights depend on something that is held constant."""

    views: Views
    select: Selection
    objective: Objective
    vote: Vote
    weigh: Weigh | None = None
    through: Through | None = None


def image_and_crops(count: int, *, augmix: bool) -> Views:
    """The image and `count` - 1 random crops of it, with AugMix where asked for."""
    return lambda base, images, keys: with_views(images, keys, count - 1, augmix=augmix)


def confident(ratio: float) -> Selection:
    """This share of the views, those of lowest entropy."""
    return lambda logits: most_confident(logits, share(ratio, logits.shape[1]))


def reliability(neighbours: int, temperature: float, legacy_mask: bool) -> Callable[[Tensor], Tensor]:
    """R-TPT's weights of views by their nearest neighbours, as a function of their features."""
    return partial(neighbour_weights, neighbours=neighbours, temperature=temperature, legacy_mask=legacy_mask)


def equal_shares(tuned: Tuned) -> Tensor:
    """[B, V] equal weights of the selected views, sum 1."""
    return marked(tuned.selected, tuned.logits.shape[1]).to(tuned.logits.dtype) / tuned.selected.shape[1]


@dataclass(frozen=True)
class ImageAlone:
    """The image itself answers, after a step on the selected views; `shares` are those of the step."""

    def answer(self, tuned: Tuned) -> Tensor:
        return tuned.logits[:, 0]

    def shares(self, tuned: Tuned) -> Tensor:
        return equal_shares(tuned)


@dataclass(frozen=True)
class LogitVote:
    """The weighted sum of the views' logits.

    Args:
        weights: unit features [B, n, E] of the views that vote -> [B, n], sum 1; None: equal weights.
        surest: only so many views vote, those of lowest entropy after tuning; None: all.
    """

    weights: Callable[[Tensor], Tensor] | None = None
    surest: int | None = None

    def answer(self, tuned: Tuned) -> Tensor:
        voters, weights = self.voters(tuned)
        return (weights[..., None] * picked(tuned.logits, voters)).sum(1)

    def shares(self, tuned: Tuned) -> Tensor:
        return torch.zeros_like(tuned.logits[..., 0]).scatter(1, *self.voters(tuned))

    def voters(self, tuned: Tuned) -> tuple[Tensor, Tensor]:
        """[B, n] the views that vote, and [B, n] their weights."""
        count = tuned.logits.shape[1]
        if self.surest is not None and self.surest < count:
            voters = entropy(tuned.logits).argsort(dim=1, stable=True)[:, : self.surest]
        else:
            voters = torch.arange(count, device=tuned.logits.device).expand(tuned.logits.shape[:2])
        if self.weights is not None:
            return voters, self.weights(picked(tuned.features, voters))
        return voters, torch.full_like(tuned.logits[:, : voters.shape[1], 0], 1 / voters.shape[1])


@dataclass(frozen=True)
class ProbabilityVote:
    """The sum of the selected views' predictions by the weights of the part `weigh`; the answer is its logarithm."""

    def answer(self, tuned: Tuned) -> Tensor:
        assert tuned.weights is not None
        log = picked(tuned.logits, tuned.selected).log_softmax(-1)
        return (log + tuned.weights.log()[..., None]).logsumexp(1)

    def shares(self, tuned: Tuned) -> Tensor:
        assert tuned.weights is not None
        return torch.zeros_like(tuned.logits[..., 0]).scatter(1, tuned.selected, tuned.weights)
