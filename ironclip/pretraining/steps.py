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

    Source: FLIP (arXiv 2212.00794). It stands in the place of open_clip's `patch_dropout`: tokens [B, 1 + N, D] become
    [B, 1 + M, D], the class token first.

    Args:
        kept: an attribute, set before each step: [B, M] positions of patches, class token not counted, or None for all tokens.
    """

    kept: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        if self.kept is None:
            return tokens
        patches = torch.gather(tokens[:, 1:], 1, self.kept[..., None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, :1], patches], 1)


def choose_patches(images: int, patches: int, dropout: float, generator: torch.Generator) -> Tensor | None:
    """Random patches that remain, as many for each image.

    Args:
        images: B. patches: N, of one image.
        dropout: share of the patches that are left out.
        generator: on the CPU.

    Returns:
        [B, M] int64 positions with M = N (1 - dropout), rounded, at least 1; None where `dropout` is 0 or less.
    """
    if dropout <= 0:
        return None
    order = torch.rand(images, patches, generator=generator).argsort(1)
    return order[:, : max(1, round(patches * (1 - dropout)))]


def encode_captions(model: CLIP, tokenizer: SimpleTokenizer, captions: Sequence[str]) -> Tensor:
    """Text features of unit length.

    The text tower computes the positions up to the end of the longest caption. Later positions cannot change the features,
    because its mask is causal.

    Args:
        captions: U texts; the tokenizer cuts those that are longer than the context.

    Returns:
        [U, E] float32.
    """
    device = model.text_projection.device
    ids = tokenizer(list(captions)).to(device)
    ends = ids.argmax(1)  # the end token has the largest id
    length = int(ends.max()) + 1
    x = model.token_embedding(ids[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x[torch.arange(len(x), device=device), ends])
    return F.normalize((x @ model.text_projection).float(), dim=-1)


def encode_pixels(model: CLIP, images: Tensor) -> Tensor:
    """Image features of unit length.

    Args:
        images: [B, 3, H, W] float32 in [0, 1]; they are normalised here.

    Returns:
        [B, E] float32.
    """
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return F.normalize(model.visual((images - mean) / std).float(), dim=-1)


def cosines(features: Tensor, texts: Tensor) -> Tensor:
    """Products of image and text features in float32, also under autocast: bfloat16 would round away small differences.

    Args:
        features: [B, E]. texts: [U, E].

    Returns:
        [B, U] float32; cosines, where both have unit length.
    """
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
    """Paste one random square of a shuffled batch into every image, and mix the targets in proportion to the area.

    Source: CutMix (arXiv 1905.04899), with one square for the whole batch.

    Args:
        images: [B, 3, S, S].
        targets: [B, U] share of each caption in each image.
        generator: on the CPU.

    Returns:
        Mixed images [B, 3, S, S] and targets [B, U]; the arguments are not changed.
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
        logits: [B, U] scaled cosines of images and captions.
        targets: [B] int64 position of each image's caption.
        groups: for each set the rows of its images and the ascending positions of its captions.

    Returns:
        Scalar in nats, a sum over the images.
    """
    total = logits.new_zeros(())
    for rows, columns in groups:
        columns = columns.to(logits.device)
        total = total + F.cross_entropy(logits[rows][:, columns], torch.searchsorted(columns, targets[rows]), reduction="sum")
    return total


def zero_shot_accuracy(
    model: CLIP, tokenizer: SimpleTokenizer, images: Tensor, labels: Tensor, names: Sequence[str], template: str
) -> float:
    """Share of the images whose nearest class text is the right one, as a fraction.

    Args:
        images: [N, 3, S, S] uint8, at least one.
        labels: [N] int64 positions in `names`.
        names: of the classes.
        template: a sentence with {} in the place of the name.
    """
    device = model.text_projection.device
    right = 0
    with torch.no_grad():
        texts = encode_captions(model, tokenizer, [template.format(name) for name in names])
        for start in range(0, len(images), 250):
            features = encode_pixels(model, images[start : start + 250].to(device).float() / 255)
            right += int((cosines(features, texts).argmax(1).cpu() == labels[start : start + 250]).sum())
    return right / len(images)
