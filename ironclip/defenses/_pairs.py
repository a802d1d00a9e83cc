"""What methods on image-text pairs share: the caption of each image, and the contrastive loss over captions."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ironclip.backbones.prompts import fill
from ironclip.core.errors import UsageError
from ironclip.core.types import Backbone, Batch


def captions(backbone: Backbone, batch: Batch, template: str) -> tuple[str, ...]:
    """One text per image, cut behind a word where it does not fit; the class's prompt where the data have no captions."""
    names = fill(template, batch.classes)
    texts = batch.texts or tuple(names[label] for label in batch.labels.tolist())
    return tuple(fitting(backbone, text) for text in texts)


def fitting(backbone: Backbone, text: str) -> str:
    """The first words of a text that the text tower holds."""
    words = text.split() or [""]
    for count in range(len(words), 0, -1):
        try:
            backbone.tokenize([" ".join(words[:count])])
        except UsageError:
            continue
        return " ".join(words[:count])
    raise UsageError(f"{text[:60]!r} has a word that {backbone.spec.name} does not hold")


def encoded(backbone: Backbone, texts: tuple[str, ...]) -> Tensor:
    """[B, E] unit features, constants; equal texts are encoded once."""
    unique = list(dict.fromkeys(texts))
    with torch.no_grad():
        features = normalize(backbone.encode_text(backbone.embed_text(unique)), dim=-1)
    return features[[unique.index(text) for text in texts]]


def others(texts: tuple[str, ...], device: torch.device) -> Tensor:
    """[B, B] True where another image has the same caption, so that it is no negative."""
    number = torch.tensor([texts.index(text) for text in texts]).to(device)
    return (number[:, None] == number) & ~torch.eye(len(texts), dtype=torch.bool, device=device)


def matching(features: Tensor, texts: Tensor, scale: Tensor | float, same: Tensor, *, both: bool) -> Tensor:
    """[B] cross-entropy of image to caption over the batch; with `both`, the mean with that of caption to image.

    Args:
        features: [B, E] of images, of any length.
        texts: [B, E] unit features of their captions.
        scale: of the cosines.
        same: [B, B] pairs that are left out.
    """
    logits = (scale * normalize(features, dim=-1) @ texts.T).masked_fill(same, -torch.inf)
    own = torch.arange(len(logits), device=logits.device)
    there = cross_entropy(logits, own, reduction="none")
    return (there + cross_entropy(logits.T, own, reduction="none")) / 2 if both else there
