"""What all test-time methods share: keys made of the images, the classifier around a method, and bounded memory."""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ironclip.backbones import AdaptedClassifier, ScaledCosine
from ironclip.core.errors import UsageError, on_behalf_of
from ironclip.core.memory import Parts, free_bytes
from ironclip.core.options import check_whole
from ironclip.core.tensors import key
from ironclip.core.types import BackboneSpec, Classifier, Images, TestTime

DRAWS = 4
MEMORY = 1 << 30  # bytes that the activations of one chunk may take, roughly

Logits = Callable[[AdaptedClassifier, Tensor, Sequence[int]], Tensor]
"""(base, images [B, 3, H, W], keys [B]) -> logits [B, K]."""


@dataclass(frozen=True)
class Observed:
    """The views of B images that a method used.

    Args:
        views: [B, V, 3, S, S], the image among them.
        weights: [B, V] share of each view in the answer, or in the step where the image alone answers; sum 1.
        tuned: [B, V] whether a step was taken on the view.
    """

    views: Tensor
    weights: Tensor
    tuned: Tensor


class TestTimeMethod(TestTime):
    """A test-time method as a function `logits(base, images, keys)`; see the room's docstring for what it must keep.

    Args:
        seed: of the random views or noise.
        draws: of views or noise over which the adaptive surrogate "draws" averages.
    """

    passes: int = 1
    """Passes of the image tower per image."""

    def __init__(self, *, seed: int = 0, draws: int = DRAWS) -> None:
        check_whole("seed", seed, 0)
        check_whole("draws", draws, 1)
        self.seed, self.draws = seed, draws

    @abstractmethod
    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        """[B, K] logits of images [B, 3, H, W], differentiable with respect to them; keys [B] seed their randomness."""

    def __call__(self, base: Classifier) -> "AdaptingClassifier":
        if not isinstance(base, AdaptedClassifier):
            raise UsageError(f"a test-time method needs a classifier made by assemble as its base; got {type(base).__name__}")
        with on_behalf_of(type(self).__module__.rpartition(".")[2]):
            self.check_base(base)
            return AdaptingClassifier(self, self.prepared(base))

    def check_base(self, base: AdaptedClassifier) -> None:
        """UsageError where the method cannot stand on this base. Default: it stands on any."""
        return None

    def prepared(self, base: AdaptedClassifier) -> AdaptedClassifier:
        """The classifier below as the method needs it, such as one with context words in place of templates: what a static
        attack is made on. UsageError where this base cannot carry the method. Default: the base itself."""
        return base

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """What else an attacker would differentiate, besides the classifier and its base: `draws` of the whole adaptation. With
        one draw that is the classifier itself, unless the adaptation can be differentiated and the method holds it constant.
        A method with cheaper surrogates puts them first."""
        assert isinstance(classifier, AdaptingClassifier)
        whole = self.fully_differentiated()
        return (drawn(whole, classifier.base, self.draws),) if self.draws > 1 or whole is not self else ()

    def observed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Observed | None:
        """The views of images [B, 3, H, W] and their weights, to be shown. Default: None, the method has no views."""
        return None

    def fully_differentiated(self) -> "TestTimeMethod":
        """The method with its adaptation differentiated: with gradient="full" where it has that option, else itself."""
        if getattr(self, "gradient", "full") == "full":
            return self
        twin = copy.copy(self)
        twin.gradient = "full"  # type: ignore[attr-defined]
        return twin


class AdaptingClassifier(nn.Module):
    """images [B, 3, H, W] in [0, 1] -> logits [B, K]; adapts inside the call and leaves nothing behind.

    Args:
        method: what is done to an image.
        base: the classifier below; borrowed.
        logits: another function (base, images, keys) -> logits in place of the method's own, for surrogates.
        passes: passes of the image tower per image in that function.
        draws: the logits are the mean over so many draws of randomness, the first of them the method's own; so the gradient is
            an expectation over the adaptation, too. The draws belong to the image, as all randomness does.
    """

    name: str

    def __init__(
        self,
        method: TestTimeMethod,
        base: AdaptedClassifier,
        logits: Logits | None = None,
        passes: int | None = None,
        draws: int = 1,
    ) -> None:
        super().__init__()
        self.passes, self.draws = passes or method.passes, draws
        self.method, self.base, self.classes, self.backbone = method, base, base.classes, base.backbone
        self._logits = logits or method.logits

    @property
    def cost(self) -> int:
        """Passes of the image tower per answer."""
        return self.passes * self.draws

    @property
    def at_once(self) -> int:
        """Images at once whose activations fit, so that none is computed again in a backward pass."""
        return chunk_size(self.backbone.spec, self.cost, graph=True, device=self.backbone.device)

    def __repr__(self) -> str:
        return f"AdaptingClassifier({type(self.method).__name__} on {self.base!r})"

    def forward(self, images: Tensor) -> Tensor:
        if not len(images):
            return self.base(images)
        graph = images.requires_grad and torch.is_grad_enabled()
        size = chunk_size(self.backbone.spec, self.passes, graph=graph, device=self.backbone.device)
        keys = image_keys(images, self.method.seed)

        def answered(rows: slice) -> Tensor:
            total = torch.zeros((), dtype=images.dtype, device=images.device)
            again = graph and (len(images) * self.draws > size or len(images[rows]) < len(images))
            for draw in range(self.draws):
                function = partial(self._keyed, [key(k, draw) if draw else k for k in keys[rows]])
                total = total + (recomputed(function, images[rows]) if again else function(images[rows]))
            return total / self.draws

        return torch.cat(Parts(images.device, size=size)(answered, len(images)))

    def observed(self, images: Tensor) -> Observed | None:
        """The views of these images and their weights, or None; for a few images at a time."""
        with torch.no_grad():
            return self.method.observed(self.base, images, image_keys(images, self.method.seed))

    def _keyed(self, keys: Sequence[int], images: Tensor) -> Tensor:
        return self._logits(self.base, images, keys)


def surrogate(classifier: Classifier, name: str, logits: Logits, passes: int | None = None) -> AdaptingClassifier:
    """Another function (base, images, keys) -> logits in place of the method's own, for an attacker to differentiate.

    Args:
        classifier: what the method's `__call__` made.
        name: names its attacks in the record ("pgd/views").
        passes: image-encoder passes of that function; None: those of the method.
    """
    assert isinstance(classifier, AdaptingClassifier)
    found = AdaptingClassifier(classifier.method, classifier.base, logits, passes)
    found.name = name
    return found


def drawn(method: TestTimeMethod, base: AdaptedClassifier, draws: int) -> AdaptingClassifier:
    """The classifier of a method averaged over draws of its randomness, as a surrogate: expectation over transformation through
    the whole adaptation (Athalye et al. 2018, arXiv 1707.07397)."""
    averaged = AdaptingClassifier(method, base, draws=draws)
    averaged.name = "draws"
    return averaged


def image_keys(images: Tensor, seed: int) -> list[int]:
    """One key per image [B, 3, H, W], made of the seed and its pixels at 8 bits.

    A classifier is a function of the image alone, so its random numbers must not depend on the place in a batch. An attacker
    meets new random numbers in every step, and an image that fooled the method once fools it again.
    """
    levels = (images.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8).contiguous()
    digests = [hashlib.blake2b(row.numpy().tobytes(), digest_size=7).digest() for row in levels]
    return [key(seed, int.from_bytes(digest, "little")) for digest in digests]


def chunk_size(spec: BackboneSpec, passes: int, *, graph: bool, device: torch.device | str = "cpu") -> int:
    """How many images run at once so that their activations take a quarter of the device's free memory; at least one.

    A CPU takes `MEMORY` bytes, so that the same machine always runs the same parts.

    Args:
        passes: passes of the image tower per image.
        graph: activations of all layers are kept for a backward pass.
    """
    tokens = spec.image_tokens or (spec.resolution // 4) ** 2 // 8
    a_layer = 4 * (16 * tokens * spec.image_width + 2 * tokens * tokens * max(1, spec.image_width // 64))
    kept = a_layer * (max(spec.image_layers, 4) if graph else 1) + 24 * spec.resolution**2 * (4 if graph else 2)
    room = MEMORY if torch.device(device).type == "cpu" else max(MEMORY, free_bytes(device) // 4)
    return max(1, room // (kept * passes))


def recomputed(function: Images, images: Tensor) -> Tensor:
    """function(images), whose activations are computed again in the backward pass; gradients reach the images alone.

    Unlike torch's checkpoint it lets the function differentiate inside: there, every inner backward pass would run the function
    again.
    """
    return _Recomputed.apply(images, function)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, function: Images) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(images)
        return function(images.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            return torch.autograd.grad(ctx.function(leaf), leaf, slope)[0], None


def features_of(base: AdaptedClassifier, views: Tensor) -> Tensor:
    """[B, V, E] unit features of views [B, V, 3, H, W], in chunks that are recomputed in a backward pass if one is not enough."""
    rows = views.flatten(0, 1)
    graph = rows.requires_grad and torch.is_grad_enabled()
    size = chunk_size(base.backbone.spec, 1, graph=graph, device=rows.device)

    def encoded(part: slice) -> Tensor:
        again = graph and len(rows[part]) < len(rows)
        return recomputed(base.encode_image, rows[part]) if again else base.encode_image(rows[part])

    features = Parts(rows.device, size=size)(encoded, len(rows))
    return F.normalize(torch.cat(features), dim=-1).unflatten(0, views.shape[:2])


def plain_head(base: AdaptedClassifier, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The base's scaled cosine as a function (unit features [..., N, E], unit text features [..., K, E]) -> logits [..., N, K].

    Raises:
        UsageError: the base has a classification head of its own, which reads more than one feature vector.
    """
    head = base.head
    if not isinstance(head, ScaledCosine):
        raise UsageError(f"{name} compares features with class prompts; the head {type(head).__name__} of its base does not")
    return lambda features, text: head.logit_scale * features @ text.transpose(-1, -2) + head.logit_bias
