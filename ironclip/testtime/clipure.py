"""CLIPure: turn the image's embedding towards where natural embeddings are denser, then classify it.

Source: arXiv 2502.18176, TMLResearchGroup-CAS/CLIPure (`CLIP_eval/CLIPure_Cos.py`, `CLIPure_Diff.py`).

Equations, e the unit embedding, r = |e| and u = e / r, b the mean embedding of prompts without a class name, E the width, x_0 =
sqrt(E) e, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise at a random time t:

    u <- u - eta r G / |r G|,  u <- u / |u|,  e <- r u
    G = grad_e [-cos(e, b)]  ("cosine")
    G = grad_e [|prior(x_t, t) - x_0|^2 / E]  ("generative")

What the released constants do: eta = 30 turns an embedding by arctan(30), 88.09 degrees, in the plane of u and t. Two
iterations undo each other, so 10 of them return the input wherever its angle to t is at most 88.09 degrees, and the gradient
shrinks by about 30 in each: the released method is zero-shot classification with a gradient of rounding noise. Deviations: the
length of G is taken per image (released: over the batch, so an answer depends on its neighbours); the default step is 0.05
[inferred]; the prior is a Gaussian fitted to clean training embeddings, whose denoiser is known in closed form [inferred], or any
function from Python (released: a 24-layer transformer for ViT-L/14); time and noise belong to the image.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.tensors import generator
from ironclip.core.types import Batch, Classifier
from ironclip.testtime._base import DRAWS, TestTimeMethod, plain_head, surrogate

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, E], t [B] in 0 .. 999) -> x_0 [B, E]."""
TIMES, LAST = 1000, (900, 1000)  # of the schedule; the released code draws from the last hundred
SHRINK = 0.1  # of the covariance towards a multiple of the identity


class Blank(AdaptedClassifier):
    """The base with the mean [E] of the unit embeddings of prompts without a class name."""

    def __init__(self, base: AdaptedClassifier, blank: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.__dict__.update(base.__dict__)
        self.blank = blank


@dataclass(frozen=True)
class GaussianPrior:
    """The best guess of x_0 given x_t where embeddings are normal, mean [E] and covariance [E, E]."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> "GaussianPrior":
        """The prior of embeddings [n, E], n at least 2."""
        mean, spread = embeddings.mean(0), torch.cov(embeddings.T)
        even = torch.eye(len(spread)).to(spread) * spread.diagonal().mean()
        return cls(mean, (1 - SHRINK) * spread + SHRINK * even)

    def __call__(self, noisy: Tensor, time: Tensor) -> Tensor:
        mean, covariance = self.mean.to(noisy), self.covariance.to(noisy)
        share = kept(time).to(noisy)[:, None, None]
        total = share * covariance + (1 - share) * torch.eye(len(mean)).to(noisy)
        apart = (noisy - share[:, 0].sqrt() * mean)[..., None]
        return mean + share[:, 0].sqrt() * (covariance @ torch.linalg.solve(total, apart))[..., 0]


class CLIPure(TestTimeMethod):
    """Purification in the latent space.

    Args:
        variant: "cosine" or "generative".
        steps: N iterations.
        step: eta; 30 as released.
        templates: prompts with {} for the class name, which stays empty; None: those of the base, or "a photo of a {}.".
        prior: of the generative variant, from Python a function (x_t, t) -> x_0; None: fitted to clean training images.
    """

    def __init__(
        self, *, variant: str = "cosine", steps: int = 10, step: float = 0.05, templates: Sequence[str] | None = None,
        prior: Denoiser | None = None, seed: int = 0, draws: int = DRAWS,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=draws if variant == "generative" else 1)
        check_choice("variant", variant, ("cosine", "generative"))
        check_whole("steps", steps, 0)
        check_number("step", step, 0)
        if prior is not None and not callable(prior):
            raise UsageError(f"prior is a function (x_t, t) -> x_0, given from Python; got {prior!r}")
        self.variant, self.steps, self.step, self.prior = variant, steps, step, prior
        self.templates = None if templates is None else (templates,) if isinstance(templates, str) else tuple(templates)

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        plain_head(base, "clipure")
        texts = self.templates or base.adaptation.templates or ("a photo of a {}.",)
        with torch.no_grad():
            tokens = base.backbone.embed_text([text.replace("{}", "") for text in texts])
            return Blank(base, F.normalize(base.backbone.encode_text(tokens), dim=-1).mean(0))

    def prepare(self, base: Classifier, batches: Iterable[Batch]) -> None:
        """The prior of these images' embeddings, where the generative variant has none; else they are not asked for."""
        if self.variant != "generative" or self.prior is not None:
            return
        if not isinstance(base, AdaptedClassifier):
            raise UsageError(f"a prior is fitted on a classifier made by assemble; got {type(base).__name__}")
        with torch.no_grad():
            seen = [
                F.normalize(base.encode_image(b.images.to(base.backbone.device, base.backbone.dtype)), dim=-1) for b in batches
            ]
        embeddings = torch.cat(seen) if seen else torch.empty(0, 1)
        if len(embeddings) < 2:
            raise UsageError("clipure fits its prior to clean training images, at least two; there are none. Hand in prior=")
        self.prior = GaussianPrior.of(math.sqrt(embeddings.shape[1]) * embeddings)
        self.notes = (f"clipure: the prior is a Gaussian fitted to {len(embeddings)} clean training images",)

    def check_base(self, base: AdaptedClassifier) -> None:
        if self.variant == "generative" and self.prior is None:
            raise UsageError("clipure has no prior yet: put it on a run whose training images are there, or hand in prior=")

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        return self.answer(base, self.purified(base, self.unit(base, images), keys))

    def unit(self, base: AdaptedClassifier, images: Tensor) -> Tensor:
        return F.normalize(base.encode_image(images), dim=-1)

    def answer(self, base: AdaptedClassifier, embeddings: Tensor) -> Tensor:
        return plain_head(base, "clipure")(embeddings, base.text_features)

    def purified(self, base: AdaptedClassifier, e: Tensor, keys: Sequence[int], *, graph: bool = False) -> Tensor:
        """[B, E] the embeddings e after the last iteration.

        Args:
            graph: differentiate the direction of each iteration, too; else it is a constant, as released.
        """
        assert isinstance(base, Blank)
        if self.variant == "cosine":
            return turned(e, lambda at, _: towards(at, base.blank), self.steps, self.step, graph=graph)
        times, noise = draws_of(keys, self.steps, e)
        assert self.prior is not None
        prior = self.prior
        return turned(
            e,
            lambda at, k: -denoising_slope(at, prior, times[:, k], noise[:, k], graph=graph),
            self.steps,
            self.step,
            graph=graph,
        )

    def straight(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] logits of the purified embedding, whose backward pass leaves the iterations out (BPDA)."""
        e = self.unit(base, images)
        return self.answer(base, e + (self.purified(base, e.detach(), keys) - e).detach())

    def unrolled(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] logits, differentiated through the direction of every iteration, too."""
        return self.answer(base, self.purified(base, self.unit(base, images), keys, graph=True))

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The iterations with the identity as their backward pass; the whole differentiated; draws of time and noise."""
        made = surrogate(classifier, "straight", self.straight), surrogate(classifier, "unrolled", self.unrolled)
        return (*made, *super().surrogates(classifier))


def turned(
    e: Tensor,
    direction: Callable[[Tensor, int], Tensor],
    steps: int,
    step: float,
    *,
    graph: bool = False,
    seen: list[Tensor] | None = None,
) -> Tensor:
    """[B, E] e after `steps` steps of this length along direction(e, number), each followed by a return to e's own length.

    Args:
        seen: takes up the iterates, the first included.
    """
    for number in range(steps + 1):
        if seen is not None:
            seen.append(e)
        if number < steps:
            length = e.norm(dim=-1, keepdim=True)
            way = length * direction(e if graph else e.detach(), number)
            way = way / way.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(e.dtype).tiny)
            e = length * F.normalize(e / length + step * (way if graph else way.detach()), dim=-1)
    return e


def towards(e: Tensor, text: Tensor) -> Tensor:
    """[B, E] gradient of cos(e, text) with respect to e [B, E]."""
    length, unit = e.norm(dim=-1, keepdim=True), F.normalize(text, dim=-1)
    u = e / length
    return (unit - (u @ unit)[:, None] * u) / length


def kept(time: Tensor) -> Tensor:
    """[...] a_t, the share of the signal left at whole times in 0 .. 999: cosine schedule, offset 0.008, steps of at most
    0.999."""
    level = (((torch.arange(TIMES + 1, dtype=torch.float64) / TIMES + 0.008) / 1.008) * math.pi / 2).cos().square()
    beta = (1 - level[1:] / level[:-1]).clamp(0, 0.999)
    return (1 - beta).cumprod(0).to(time.device)[time]


def draws_of(keys: Sequence[int], steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """([B, N] times, [B, N, E] noise) of images with these keys."""
    own = [generator(key) for key in keys]
    times = torch.stack([torch.randint(*LAST, (steps,), generator=draw) for draw in own])
    noise = torch.stack([torch.randn(steps, like.shape[-1], generator=draw) for draw in own])
    return times.to(like.device), noise.to(like)


def denoising_slope(e: Tensor, prior: Denoiser, time: Tensor, noise: Tensor, *, graph: bool = False) -> Tensor:
    """[B, E] gradient, up to a factor, of each row's mean squared error of the prior at these times [B] with this noise [B,
    E]."""
    with torch.enable_grad():
        leaf = math.sqrt(e.shape[-1]) * e
        leaf = leaf if graph and leaf.requires_grad else leaf.detach().requires_grad_()
        share = kept(time).to(e)[:, None]
        guess = prior(share.sqrt() * leaf + (1 - share).sqrt() * noise, time)
        return torch.autograd.grad((guess - leaf).square().mean(1).sum(), leaf, create_graph=graph)[0]


METHOD = CLIPure
