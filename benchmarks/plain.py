"""The plain reference: an open_clip model called directly, as the published codes of prompt tuning do it.

Every pass runs the text tower over its whole context and every layer over all tokens. A model whose parameters ask for
gradients gets them from every `.backward()`, also in the inner steps of an attack; they are wiped afterwards.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.backbones.adapter import OPENAI_MEAN, OPENAI_STD, ClipBackbone
from ironclip.backbones.text import TextTower
from ironclip.backbones.vit import VitTower
from ironclip.core.types import Batch

VOCABULARY = 49408


@dataclass(frozen=True)
class Architecture:
    """Sizes of a CLIP: image side and patch, layers and width of either tower, tokens of a prompt."""

    image: tuple[int, int]
    vision: tuple[int, int]
    text: tuple[int, int]
    context: int = 77
    embed: int = 512
    head: int = 64


ARCHITECTURES = {
    "vitb32": Architecture(image=(224, 32), vision=(12, 768), text=(12, 512)),
    "small": Architecture(image=(64, 8), vision=(6, 192), text=(6, 256), embed=256),
    "mini": Architecture(image=(64, 8), vision=(6, 192), text=(4, 128), context=32, embed=128),
    "text-only": Architecture(image=(32, 32), vision=(1, 64), text=(12, 512)),
    "tiny": Architecture(image=(32, 8), vision=(2, 32), text=(2, 32), embed=16, head=16),
}


@dataclass(frozen=True)
class Pair:
    """The same random weights three times over: behind the adapter, for the plain reference, and frozen (`lean`).

    `lean` is the very model behind the adapter, whose parameters ask for no gradient.
    """

    backbone: ClipBackbone
    plain: Any
    lean: Any


def pair(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Pair:
    from open_clip.model import CLIP

    sizes = ARCHITECTURES[name]
    (side, patch), (layers, width), (text_layers, text_width) = sizes.image, sizes.vision, sizes.text
    vision = {"image_size": side, "patch_size": patch, "layers": layers, "width": width, "head_width": sizes.head}
    text = {"context_length": sizes.context, "vocab_size": VOCABULARY, "layers": text_layers, "width": text_width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = text_width // sizes.head
        model = CLIP(sizes.embed, vision, {**text, "heads": heads}, init_logit_scale=math.log(100.0)).eval()
    scale = float(model.logit_scale.detach().to(dtype).exp())
    backbone = ClipBackbone(
        VitTower(model.visual),
        TextTower(model),
        tokenizer(sizes.context),
        name=name,
        logit_scale=scale,
        activation="gelu",
    )
    model.to(dtype)
    backbone.to(dtype)
    plain = copy.deepcopy(model).requires_grad_(True)
    return Pair(backbone, plain, model.requires_grad_(False))


@cache
def tokenizer(context: int) -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context)


def class_names(count: int) -> tuple[str, ...]:
    """Names of ImageNet classes, evenly spaced: their lengths are what real prompts have."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES[i * len(IMAGENET_CLASSNAMES) // count] for i in range(count))


def random_batch(pair: Pair, classes: Sequence[str], size: int, seed: int = 1) -> tuple[Batch, Tensor]:
    """Random images and labels, and the start noise in [-1, 1] that both paths use."""
    drawn = torch.Generator().manual_seed(seed)
    side = pair.backbone.spec.resolution
    images = torch.rand(size, 3, side, side, generator=drawn, dtype=pair.backbone.dtype)
    labels = torch.randint(len(classes), (size,), generator=drawn)
    noise = torch.rand(images.shape, generator=drawn, dtype=images.dtype) * 2 - 1
    return Batch(images, labels, torch.arange(size), tuple(classes)), noise


class PlainPrompts(nn.Module):
    """Context words in front of every class name, and the classifier they make; CoOp's and APT's forward pass.

    Args:
        words: [M, D] start of the learned context.
        template: "{}" stands for the class name, behind the context.
    """

    embeddings: Tensor
    eot: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, words: Tensor, classes: Sequence[str], template: str = "{}.") -> None:
        super().__init__()
        self.model, self.words = model, nn.Parameter(words.detach().clone())
        self.learned = {"context": self.words}
        places = " ".join(["X"] * len(words))
        texts = [f"{places} {template.replace('{}', name)}" for name in classes]
        ids = tokenizer(model.context_length)(texts)
        self.register_buffer("embeddings", model.token_embedding(ids).detach())
        self.register_buffer("eot", ids.argmax(1))
        self.register_buffer("mean", words.detach().new_tensor(OPENAI_MEAN).view(3, 1, 1))
        self.register_buffer("std", words.detach().new_tensor(OPENAI_STD).view(3, 1, 1))

    def text(self) -> Tensor:
        """[K, E] unit features."""
        model, count = self.model, len(self.words)
        words = self.words.expand(len(self.embeddings), -1, -1)
        prompts = torch.cat([self.embeddings[:, :1], words, self.embeddings[:, 1 + count :]], dim=1)
        tokens = model.transformer(prompts + model.positional_embedding, attn_mask=model.attn_mask)
        tokens = model.ln_final(tokens)
        return F.normalize(tokens[torch.arange(len(tokens)), self.eot] @ model.text_projection, dim=-1)

    def image(self, images: Tensor) -> Tensor:
        """[B, E] unit features."""
        return F.normalize(self.model.encode_image((images - self.mean) / self.std), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return self.model.logit_scale.exp() * self.image(images) @ self.text().T


def plain_pgd(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    noise: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    box: bool,
    objective: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The last iterate of projected ascent by `.backward()`, which reaches the classifier's parameters, too.

    Args:
        objective: images -> scalar to raise; default: the cross-entropy of the labels.
        box: iterates stay in [0, 1]; without it they stay in the ball and are clipped when looked at, as in APT's code.
    """
    delta = eps * noise
    for _ in range(steps):
        seen = (images + delta).clamp(0, 1).requires_grad_()
        (F.cross_entropy(classifier(seen), labels) if objective is None else objective(seen)).backward()
        assert seen.grad is not None
        delta = (seen if box else images + delta).detach() + step * seen.grad.sign() - images
        delta = delta.clamp(-eps, eps)
    classifier.zero_grad(set_to_none=True)
    return (images + delta).clamp(0, 1)


class PlainDeep(PlainPrompts):
    """Prompts renewed in front of every layer of both towers, written out layer by layer.

    A method says what stands where: `prompts(side, layer)` [P, D] or None where the last outputs stay, and `refine`.

    Args:
        start: [P, D_t] context of the first text layer.
        learned: copies of what the defence has learned, under its names.
        before_ln_pre: the first image prompts pass `ln_pre`.
    """

    before_ln_pre = True

    def __init__(self, model: Any, start: Tensor, learned: Mapping[str, Tensor], classes: Sequence[str], template: str) -> None:
        super().__init__(model, start, classes, template.removeprefix("{ctx} "))
        self.learned = {name: nn.Parameter(tensor.detach().clone()) for name, tensor in learned.items()}
        self.copies = nn.ParameterList(self.learned.values())
        del self.words

    def prompts(self, side: str, layer: int) -> Tensor | None:
        raise NotImplementedError

    def refine(self, side: str, layer: int, tokens: Tensor) -> Tensor:
        return tokens

    def text(self) -> Tensor:
        model, classes = self.model, len(self.embeddings)
        positions = model.positional_embedding
        tokens = self.embeddings + positions
        for layer, block in enumerate(model.transformer.resblocks):
            fresh = self.prompts("text", layer)
            tokens = self.refine("text", layer, tokens)
            if fresh is not None:
                end = 1 + len(fresh)
                fresh = fresh + positions[1:end] if layer == 0 else fresh
                tokens = torch.cat([tokens[:, :1], fresh.expand(classes, -1, -1), tokens[:, end:]], dim=1)
            tokens = block(tokens, attn_mask=model.attn_mask)
        tokens = model.ln_final(tokens)
        return F.normalize(tokens[torch.arange(classes), self.eot] @ model.text_projection, dim=-1)

    def image(self, images: Tensor) -> Tensor:
        net, size = self.model.visual, len(images)
        patches = net.conv1((images - self.mean) / self.std).flatten(2).transpose(1, 2)
        tokens = torch.cat([net.class_embedding.expand(size, 1, -1), patches], dim=1) + net.positional_embedding
        count = tokens.shape[1]
        first = self.prompts("image", 0)
        assert first is not None
        if self.before_ln_pre:
            tokens = torch.cat([tokens, first.expand(size, -1, -1)], dim=1)
        tokens = net.ln_pre(tokens)
        for layer, block in enumerate(net.transformer.resblocks):
            fresh = None if layer == 0 and self.before_ln_pre else self.prompts("image", layer)
            extra = tokens[:, count:] if fresh is None else fresh.expand(size, -1, -1)
            tokens = block(torch.cat([self.refine("image", layer, tokens[:, :count]), extra], dim=1))
        return F.normalize(net.ln_post(tokens)[:, 0] @ net.proj, dim=-1)
