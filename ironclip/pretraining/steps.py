"""The mathematics of pre-training: text tower, augmentation, losses, inner attack, zero-shot check. All functions pure."""

import math
from collections.abc import Sequence

import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class KeepPatches(nn.Module):
    """Patch dropout with patches chosen outside, so that an attack and the step that follows it see the same ones.

    Source: FLIP (arXiv 2212.00794). `kept`: [B, M] token indices (class token excluded), or None for all tokens.
    """

    kept: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        if self.kept is None:
            return tokens
        patches = torch.gather(tokens[:, 1:], 1, self.kept[..., None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, :1], patches], 1)


def choose_patches(images: int, patches: int, dropout: float, generator: torch.Generator) -> Tensor | None:
    """[images, M] random patch indices that remain, or None when nothing is dropped."""
    if dropout <= 0:
        return None
    order = torch.rand(images, patches, generator=generator).argsort(1)
    return order[:, : max(1, round(patches * (1 - dropout)))]


def encode_captions(model: CLIP, tokenizer: SimpleTokenizer, captions: Sequence[str]) -> Tensor:
    """[U, E] unit text features; the tower runs up to the longest caption's end, which changes nothing (causal mask)."""
    device = model.text_projection.device
    ids = tokenizer(list(captions)).to(device)
    ends = ids.argmax(1)  # the end token has the largest id
    length = int(ends.max()) + 1
    x = model.token_embedding(ids[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x), device=device), ends])
    return F.normalize((x @ model.text_projection).float(), dim=-1)


def encode_pixels(model: CLIP, images: Tensor) -> Tensor:
    """[B, E] unit features of images [B, 3, H, W] in [0, 1]."""
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return F.normalize(model.visual((images - mean) / std).float(), dim=-1)


def cosines(features: Tensor, texts: Tensor) -> Tensor:
    """[B, U] float32 products, also under autocast: bfloat16 logits would round away small differences."""
    with torch.autocast(features.device.type, enabled=False):
        return features.float() @ texts.float().T


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random resized crop (area 0.35 to 1), mirror, and mild brightness, contrast and saturation for each image.

    Args:
        images: [B, 3, S, S] uint8, any device; random numbers are drawn on the CPU, so results agree across devices.

    Returns:
        [B, 3, S, S] float32 in [0, 1].
    """
    count, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * (high - low) + low).to(device)

    area, ratio = uniform(0.35, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = images.new_zeros(count, 2, 3, dtype=torch.float32)
    theta[:, 0, 0] = width * uniform(-1, 1).sign()
    theta[:, 1, 1] = height
    theta[:, 0, 2] = (1 - width) * uniform(-1, 1)
    theta[:, 1, 2] = (1 - height) * uniform(-1, 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    x = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * uniform(0.7, 1.3, 1, 1, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((mean + (x - mean) * uniform(0.8, 1.25, 1, 1, 1)) * uniform(0.8, 1.2, 1, 1, 1)).clamp(0, 1)


def cutmix(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste one random rectangle of a shuffled batch into every image; targets [B, U] are mixed by area.

    Source: CutMix (arXiv 1905.04899), one rectangle a batch.
    """
    size = images.shape[-1]
    side = math.sqrt(float(torch.rand((), generator=generator)) * 0.5)
    height = width = max(1, round(size * side))
    top, left = (int(torch.randint(size - height + 1, (), generator=generator)) for _ in range(2))
    other = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = images.clone()
    mixed[:, :, top : top + height, left : left + width] = images[other, :, top : top + height, left : left + width]
    pasted = height * width / size**2
    return mixed, (1 - pasted) * targets + pasted * targets[other]


def contrastive_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Symmetric contrastive loss in which all images of a caption are positives of it, in equal parts.

    Args:
        logits: [B, U] scaled cosines of images and captions (no caption twice).
        targets: [B, U] share of each caption in each image; rows sum to 1. Captions without an image are negatives.

    Returns:
        Scalar in nats.
    """
    to_text = -(targets * logits.log_softmax(1)).sum(1).mean()
    weight = targets.sum(0)
    used = weight > 0
    to_image = -(targets[:, used] / weight[used] * logits.log_softmax(0)[:, used]).sum(0).mean()
    return (to_text + to_image) / 2


def own_set_loss(logits: Tensor, targets: Tensor, groups: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """Summed cross-entropy of every image over the captions of its own set only.

    Args:
        logits: [B, U]; targets: [B] caption of each image; groups: rows of a set and its caption columns, ascending.
    """
    total = logits.new_zeros(())
    for rows, columns in groups:
        columns = columns.to(logits.device)
        total = total + F.cross_entropy(logits[rows][:, columns], torch.searchsorted(columns, targets[rows]), reduction="sum")
    return total


def zero_shot_accuracy(
    model: CLIP, tokenizer: SimpleTokenizer, images: Tensor, labels: Tensor, names: Sequence[str], template: str
) -> float:
    """Fraction of uint8 images [N, 3, S, S] whose nearest class text is the right one."""
    device = model.text_projection.device
    right = 0
    with torch.no_grad():
        texts = encode_captions(model, tokenizer, [template.format(name) for name in names])
        for start in range(0, len(images), 250):
            features = encode_pixels(model, images[start : start + 250].to(device).float() / 255)
            right += int((cosines(features, texts).argmax(1).cpu() == labels[start : start + 250]).sum())
    return right / len(images)
