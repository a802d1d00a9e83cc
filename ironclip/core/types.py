"""The nouns of the library as interfaces: backbone, adaptation, classifier, attack, defence, test-time method.

Shape letters, the same everywhere: B images, K classes, V views, L layers, N tokens, P prompt tokens, D token width,
E joint width, G patches per side, T text length.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ironclip.core.errors import UsageError
from ironclip.core.schedule import Schedule

Edit = Callable[[int, Tensor], Tensor]
"""(layer, tokens [B, N, D]) -> tokens. Pure.

Called with layer -1 on the embedded image (before `ln_pre`, where a tower has one), 0 .. L-1 on the input of each block, and L
on the output of the last block; it returns what it does not change as it came. Attributes that let towers do less, all optional:

changes_output: False says that at layer L it leaves the pooled token (class or end of text) as it is.
reach: text only; n says that it depends on positions only within the first n, and treats the tokens after them alike and
    alone, by its method `beyond(layer, tokens)` (no such method: leaves them). Without `reach`, classes share no prefix.
appends: image only; True says that it keeps tokens of its own at the end of the sequence, where there is room for one such edit.

An edit treats all sequences of the batch alike: it may be called on a part of the batch, or again in a backward pass.
"""

Images = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [B, ...], labels [B]) -> one value per image [B]; an attack ascends it."""


@dataclass(frozen=True)
class BackboneSpec:
    """Sizes and constants of a frozen backbone, and the hash of its weights.

    `image_tokens` counts class token and patches; 0: no sequence. `*_weights` can be masked, all `*_parameters` be replaced.
    `class_token` says that the features are read off the first token, not pooled from the patches.
    """

    name: str
    kind: Literal["vit", "timm", "resnet"]
    image_layers: int
    image_width: int
    text_layers: int
    text_width: int
    embed_dim: int
    grid: int
    image_tokens: int
    resolution: int
    context_length: int
    logit_scale: float
    activation: Literal["gelu", "quick_gelu"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_weights: tuple[str, ...] = ()
    text_weights: tuple[str, ...] = ()
    logit_bias: float | None = None
    sha256: str = ""
    image_parameters: tuple[str, ...] = ()
    text_parameters: tuple[str, ...] = ()
    class_token: bool = True


@dataclass(frozen=True)
class PromptTokens:
    """A batch of embedded prompts, one per class.

    Args:
        embeddings: [K, T, D] token embeddings, before positions are added; T may be less than the context length.
        eot: [K] position at which each prompt is read out.
        shared: number of leading positions at which all classes hold the same embedding (at least the start token, if K > 0).
        ids: [K, T] token ids (those of the placeholder words where a learned context is spliced in).
    """

    embeddings: Tensor
    eot: Tensor
    shared: int
    ids: Tensor


@dataclass
class Trace:
    """What to record during a pass through a tower; the tower fills it.

    Args:
        tokens: fill `inputs`: layer -> [B, N, D] input of that block after edits; key L holds the output of the last block.
        attention: fill `weights`: layer -> [B, H, N, N] attention probabilities, on the autograd path.
        grid: fill `projected`: [B, G*G, E] patch tokens through the final norm and the projection (image towers).
        layers: restrict tokens and attention to these layers.
    """

    tokens: bool = True
    attention: bool = False
    grid: bool = False
    layers: Sequence[int] | None = None
    inputs: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)
    projected: Tensor | None = None

    def wants(self, layer: int) -> bool:
        return self.layers is None or layer in self.layers


class Backbone(Protocol):
    """A frozen CLIP-like model behind one adapter. It knows no method."""

    @property
    def spec(self) -> BackboneSpec: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """[K, T] token ids, T the context length; a text that does not fit raises UsageError."""
        ...

    def encode_image(
        self,
        images: Tensor,
        *,
        edits: Sequence[Edit] = (),
        weights: Mapping[str, Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """[B, E] features, not normalised, of images [B, 3, H, W] in [0, 1]."""
        ...

    def embed_text(self, texts: Sequence[str]) -> PromptTokens: ...

    def encode_text(
        self,
        tokens: PromptTokens,
        *,
        edits: Sequence[Edit] = (),
        weights: Mapping[str, Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """[K, E] features, not normalised."""
        ...

    def image_weight(self, name: str) -> Tensor: ...

    def text_weight(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class ImageOutput:
    """What a head is given of the images: features [B, E], and the trace if the head asked for one."""

    features: Tensor
    trace: Trace | None = None


class Head(Protocol):
    """(ImageOutput, text features [K, E] of unit length) -> logits [B, K]."""

    def trace(self) -> Trace | None:
        """A fresh trace that says what this head needs, or None."""
        ...

    def __call__(self, output: ImageOutput, text_features: Tensor) -> Tensor: ...


@runtime_checkable
class ComparingHead(Head, Protocol):
    """A head with features of its own, which tells how far an attack moved them."""

    def observer(self) -> Trace | None:
        """A fresh trace of all that `compared` reads."""
        ...

    def compared(self, clean: ImageOutput, moved: ImageOutput) -> dict[str, Tensor]:
        """[B] numbers by name, of the same images before and after an attack."""
        ...


@dataclass(frozen=True)
class Context:
    """Learned words of the class prompts.

    Args:
        vectors: [M, D] shared by all classes, or [K, M, D] one set per class.
        template: text with `{ctx}` where the vectors stand and `{}` for the class name.
        position: where the class name goes relative to the vectors: "end" (after them, as the template says), "middle" (half of
            them on either side) or "front" (before them); the two last need a template starting "{ctx} {}". "over": the vectors
            take the place of the first M tokens of the prompt, whatever they are; the template then has no `{ctx}`.
    """

    vectors: Tensor
    template: str = "{ctx} {}."
    position: Literal["end", "middle", "front", "over"] = "end"


@dataclass(frozen=True)
class Mask:
    """A factor for one weight; masks of several defences multiply, anything else on one weight clashes."""

    values: Tensor


WeightChange = Tensor | Mask


@dataclass(frozen=True)
class Adaptation:
    """Everything a defence changes, as a value. Each field may be empty.

    Args:
        pixels: images [B, 3, H, W] in [0, 1] -> images, before normalisation; results are not clamped.
        templates: prompt texts with `{}` for the class name, averaged as unit features; a context overrides them.
    """

    pixels: tuple[Images, ...] = ()
    image_edits: tuple[Edit, ...] = ()
    image_weights: Mapping[str, WeightChange] = field(default_factory=dict)
    context: Context | None = None
    templates: tuple[str, ...] = ()
    text_edits: tuple[Edit, ...] = ()
    text_weights: Mapping[str, WeightChange] = field(default_factory=dict)
    head: Head | None = None


class Classifier(Protocol):
    """images [B, 3, H, W] float32 in [0, 1] at model resolution -> logits [B, K] float32. Normalises inside."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __call__(self, images: Tensor) -> Tensor: ...


class Attack(Protocol):
    """(function, images, labels) -> images in the ball and in [0, 1].

    `indices` [B] key the per-image generators (dataset positions; default 0 .. B-1), so results depend neither on the batch
    size nor on the order. `loss` replaces the attack's own, so that any images -> tensor function can be ascended.
    Never touches a parameter's `.grad`.
    """

    def __call__(
        self,
        function: Images,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor | None = None,
        loss: Loss | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True, repr=False)
class Batch:
    """Images [B, 3, H, W] in [0, 1], labels [B], their positions in the data set [B], and the names the labels index.

    `texts` holds one caption per image where the data have captions, and is empty otherwise.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    classes: tuple[str, ...]
    texts: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in pinned memory, so that a copy to a CUDA device does not block the CPU."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, images=change(self.images), labels=change(self.labels), indices=change(self.indices))

    def rows(self, rows: slice) -> "Batch":
        """These rows of the batch, in their order."""
        part = {"images": self.images[rows], "labels": self.labels[rows], "indices": self.indices[rows]}
        return replace(self, texts=self.texts[rows], **part)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Batch({len(self)} images {tuple(self.images.shape[1:])}, {len(self.classes)} classes)"


class Defense(nn.Module, ABC):
    """Owns only learned tensors and borrows the backbone as an argument.

    Constructors take `(backbone, classes, *, generator=None, **options)`; the backbone only lends sizes and starting
    values. `parameters()` and `state_dict()` are exactly what was learned.

    Attributes:
        learns: False says that there is nothing to train, so no training images are drawn.
        transfers: False says that what is learned fits the classes it was learned for alone; `adaptation` refuses others.
        divisible: False says that its loss, or what it keeps of the images, depends on the whole batch: several processes with a
            part of the batch each would learn something else than one process.
        notes: what differs here from what was asked for or is usual, one sentence each; they stand in every record.
    """

    learns: ClassVar[bool] = True
    transfers: ClassVar[bool] = True
    divisible: ClassVar[bool] = True
    notes: tuple[str, ...] = ()

    @abstractmethod
    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        """What this defence changes, differentiable with respect to its parameters."""

    @abstractmethod
    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        """Named terms; their sum is minimised.

        Args:
            adaptation: the whole of what is trained, where this defence is one part of a stack; default: its own.
        """

    def prepare(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        """Once before training: feature banks, statistics. Default: nothing."""
        return None

    def diagnostics(self) -> dict[str, float]:
        """Numbers of the last `loss` to log beside its terms; they are not minimised. Default: none."""
        return {}

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """What else an attacker would differentiate; an adaptive evaluation attacks these too.

        An attribute `name` of a surrogate names its attacks in the record ("pgd/soft").
        """
        return ()

    def learned(self) -> dict[str, Tensor]:
        """What is stored after training, as small as possible; UsageError where nothing was learned. Resuming uses state_dict."""
        return dict(self.state_dict())

    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `learned` gave; RuntimeError where names or shapes are others, TypeError where kinds of numbers are."""
        for name, own in self.state_dict().items():
            given = tensors.get(name, own)
            if given.dtype != own.dtype and not (given.is_floating_point() and own.is_floating_point()):
                raise TypeError(f"{name} holds {given.dtype}, and {own.dtype} is needed".replace("torch.", ""))
        self.load_state_dict(dict(tensors))

    def passes(self, schedule: Schedule, steps: int) -> int:
        """How often an epoch goes through the training images, of which one pass makes so many optimiser steps."""
        return 1

    @classmethod
    def planned_passes(cls, options: Mapping[str, Any], schedule: Schedule, steps: int) -> int:
        """The same of a defence that will be built with these options; for planning, so nothing is loaded. Default: 1."""
        return 1

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for the optimiser."""
        return [{"params": list(self.parameters()), "lr": lr}]


class TestTime(ABC):
    """A method that adapts inside the call: (base classifier) -> classifier, fresh for every image.

    Constructors take keyword-only options; what they make borrows the base and leaves nothing behind.

    Attributes:
        notes: what `prepare` set, one sentence each; they stand in every record.
    """

    __test__: ClassVar[bool] = False  # not a pytest class
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __call__(self, base: Classifier) -> Classifier: ...

    def prepare(self, base: Classifier, batches: Iterable[Batch]) -> None:
        """Once, before it is put on this base: source statistics from training images, which are read only if the method asks
        for a batch. Default: nothing."""
        return None

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """What else an attacker would differentiate, given what `__call__` made; its base is always attacked besides."""
        return ()


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names as a tuple, or UsageError where they cannot name a classification task."""
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if any(not isinstance(name, str) or not name.strip() for name in names):
        raise UsageError(f"class names are words that can stand in a prompt; got {list(names)[:8]}")
    if len(names) < 2:
        raise UsageError(f"a classifier needs at least two classes; got {len(names)}: {list(names)}")
    return names
