"""Class prompts whose context words are tuned per image: one shared text graph, one vector-Jacobian product per image.

Every image starts from the same context, so the text features and their graph at the start are made once; an image only needs
the product of its own cotangent with that graph, and one encoding of its tuned context (TomSheng21/R-TPT re-encodes five times).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ironclip.backbones import AdaptedClassifier, splice
from ironclip.backbones.text import shared_columns
from ironclip.backbones.words import word_vectors
from ironclip.core.errors import UsageError
from ironclip.core.merging import resolve_weights
from ironclip.core.types import Context, PromptTokens

START = "a photo of a"
TOGETHER = 32  # up to so many classes, the prompts of several images run as one batch
AT_ONCE = 256  # classes whose graph is kept at once


class Prompted(AdaptedClassifier):
    """A classifier on a context that can be tuned: the base's own, or the words of `prompt` in place of its templates.

    Args:
        base: its backbone, classes and everything else it changes are taken over.
        prompt: words whose embeddings are the start; None: "a photo of a", or the base's learned context where it has one.

    Raises:
        UsageError: a prompt for a base that has learned its own.
    """

    def __init__(self, base: AdaptedClassifier, prompt: str | None = None) -> None:
        adaptation, backbone = base.adaptation, base.backbone
        if adaptation.context is not None and prompt is not None:
            raise UsageError(f"the base has learned its own context words; leave out prompt={prompt!r}")
        if adaptation.context is None:
            adaptation = replace(adaptation, context=Context(word_vectors(backbone, prompt or START)), templates=())
        with torch.no_grad():
            super().__init__(backbone, base.classes, adaptation, base.precision)
        assert adaptation.context is not None
        self.context = adaptation.context
        self.start = adaptation.context.vectors.detach()
        self._weights = resolve_weights(adaptation.text_weights, backbone.text_weight)
        self._weights = {name: weight.detach() for name, weight in self._weights.items()}
        self._graph: tuple[Tensor, Tensor] | None = None

    def encode(self, contexts: Tensor) -> Tensor:
        """[B, K, E] unit text features of contexts [B, M, D] (or [B, K, M, D]), differentiable."""
        if len(self.classes) > TOGETHER:
            return torch.stack([self._features(self._tokens(context, slice(None))) for context in contexts])
        each = [self._tokens(context, slice(None)) for context in contexts]
        tokens = PromptTokens(
            embeddings=torch.cat([one.embeddings for one in each]),
            eot=torch.cat([one.eot for one in each]),
            shared=min(1, shared_columns(each[0].ids)),
            ids=torch.cat([one.ids for one in each]),
        )
        return self._features(tokens).unflatten(0, (len(each), len(self.classes)))

    def pull(self, cotangents: Tensor, *, create_graph: bool = False) -> Tensor:
        """[B, M, D] (or [B, K, M, D]) gradients with respect to the start context, of sum(cotangent * features) for each image.

        Args:
            cotangents: [B, K, E] derivatives of each image's loss with respect to the unit text features at the start.
            create_graph: the result can be differentiated with respect to the cotangents.
        """
        total = torch.zeros(len(cotangents), *self.start.shape).to(cotangents)
        for at in range(0, len(self.classes), AT_ONCE):
            rows = slice(at, at + AT_ONCE)
            features, leaf = self._at_start(rows)
            slopes = [
                torch.autograd.grad(features, leaf, one[rows], retain_graph=True, create_graph=create_graph)[0]
                for one in cotangents
            ]
            total = total + torch.stack(slopes)
        return total

    def _at_start(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Text features of these classes at the start, and the leaf they depend on; kept where one chunk holds all classes."""
        if self._graph is not None:
            return self._graph
        # Plain attention: the fused kernels cannot be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = self.start.clone().requires_grad_()
            made = self._features(self._tokens(leaf, rows)), leaf
        if len(self.classes) <= AT_ONCE:
            self._graph = made
        return made

    def _tokens(self, vectors: Tensor, rows: slice) -> PromptTokens:
        chosen = vectors[rows] if vectors.ndim == 3 else vectors
        return splice(self.backbone, self.classes[rows], replace(self.context, vectors=chosen))

    def _features(self, tokens: PromptTokens) -> Tensor:
        with self._autocast():
            features = self.backbone.encode_text(tokens, edits=self.adaptation.text_edits, weights=self._weights)
        return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


class AdamW:
    """Steps of AdamW (betas 0.9 and 0.999, eps 1e-8, decoupled decay) from an empty state, each row on its own.

    The first step is p (1 - lr wd) - lr g / (|g| + eps).
    """

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr, self.weight_decay, self.count = lr, weight_decay, 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def __call__(self, values: Tensor, slope: Tensor) -> Tensor:
        self.count += 1
        kept = values * (1 - self.lr * self.weight_decay)
        if self.count == 1:
            self.mean, self.square = 0.1 * slope, 0.001 * slope.square()
            return kept - self.lr * slope / (slope.abs() + 1e-8)
        self.mean, self.square = 0.9 * self.mean + 0.1 * slope, 0.999 * self.square + 0.001 * slope.square()
        scaled = self.square / (1 - 0.999**self.count)
        return kept - self.lr * self.mean / (1 - 0.9**self.count) / (scaled.sqrt() + 1e-8)


def entropy(logits: Tensor) -> Tensor:
    """[...] entropy in nats of the prediction of logits [..., K]."""
    log = logits.log_softmax(-1)
    return -(log.exp() * log).sum(-1)


def marginal_entropy(logits: Tensor) -> Tensor:
    """[...] entropy in nats of the mean prediction of logits [..., n, K]."""
    log = logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2])
    log = log.clamp_min(torch.finfo(log.dtype).min)
    return -(log.exp() * log).sum(-1)


def most_confident(logits: Tensor, count: int) -> Tensor:
    """[B, count] the views of lowest entropy among logits [B, V, K], lowest first; ties to the lower number."""
    return entropy(logits).argsort(dim=1, stable=True)[:, :count]


def picked(values: Tensor, views: Tensor) -> Tensor:
    """[B, n, ...] of values [B, V, ...] the rows of views [B, n]."""
    return values.gather(1, views.reshape(*views.shape, *[1] * (values.ndim - 2)).expand(*views.shape, *values.shape[2:]))


def neighbour_weights(features: Tensor, neighbours: int = 20, temperature: float = 0.01, *, legacy_mask: bool = False) -> Tensor:
    """[B, V] weights of views by the mean cosine to their nearest other views: softmax(mean / temperature).

    Source: TomSheng21/R-TPT `get_top_sim`, which leaves out similarities of at least 1 instead of the diagonal; whether a view
    then counts as its own neighbour is decided by rounding.

    Args:
        features: [B, V, E] unit image features.
        neighbours: at most V - 1 are used.
        legacy_mask: the released rule.
    """
    count = features.shape[1]
    if count == 1:
        return torch.ones_like(features[..., 0])
    similarity = features @ features.transpose(1, 2)
    own = similarity >= 1.0 if legacy_mask else torch.eye(count, dtype=torch.bool, device=features.device)
    nearest = similarity.masked_fill(own, -torch.inf).topk(min(neighbours, count - 1), dim=2).values
    return (nearest.mean(2) / temperature).softmax(1)


def dispersion(text: Tensor) -> Tensor:
    """[...] mean distance of the class features [..., K, E] to their centroid (C-TPT, hee-suk-yoon/C-TPT)."""
    return (text - text.mean(-2, keepdim=True)).norm(dim=-1).mean(-1)


def share(ratio: float, views: int) -> int:
    """How many of the views a selection keeps: truncated as in the released codes, but never none."""
    return max(1, int(ratio * views))


__all__: Sequence[str] = (
    "START", "AdamW", "Prompted", "dispersion", "entropy", "marginal_entropy", "most_confident", "neighbour_weights", "picked",
    "share",
)  # fmt: skip
