"""One training step of AdvMask (two inner steps of PGD, LAFA) against the plain reference.

Plain: the model's attention weights multiplied by the straight-through mask in every forward pass, as published mask-tuning code
does (wuw2019/R-AMT, code/modules/masklayers.py); prompts encoded in every inner step; `.backward()` to every parameter. Lean: the
same with CLIP's parameters frozen. Besides: the bytes that are stored, and the folded checkpoint against the masked model.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks import harness, plain, steps
from ironclip.attacks import PGD
from ironclip.backbones import assemble
from ironclip.backbones.folding import folded
from ironclip.core.types import Batch
from ironclip.defenses.advmask import AdvMask

EPS = 1 / 255
ATTACK = PGD(EPS, step_size=EPS, steps=2, keep="last")
TEMPLATE = "a photo of a {}."
BYTES = {"vitb32": 3_538_944, "small": 6 * 4 * 192**2 // 8, "mini": 6 * 4 * 192**2 // 8, "tiny": 2 * 4 * 32**2 // 8}
"""4 L w^2 / 8: 3.375 MiB for ViT-B/32."""


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    dtype: torch.dtype = torch.float32,
    tolerance: steps.Tolerance = steps.TOLERANCE,
) -> harness.Row:
    """Equality of loss, slopes of all scores and adversarial pixels within `tolerance`, bytes and folding, then the times."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    defense = _stirred(AdvMask(models.backbone, classes, templates=(TEMPLATE,)))
    runs = steps.paths(
        models, batch, noise, defense, ATTACK, lambda model: PlainMasked(model, defense, classes), outer=PlainMasked.objective
    )
    row = harness.Row("AdvMask step", f"{name}, C={count}, B={size}")
    stored = sum(tensor.numel() for tensor in defense.learned().values())
    if stored != BYTES[name]:
        raise AssertionError(f"{stored} bytes are stored; {BYTES[name]} were expected")
    row.notes = {"bytes stored": stored, "bytes of scores": 4 * sum(p.numel() for p in defense.scores)}
    folding = _folding(models, defense, classes, batch.images[:4], 1e-6)
    steps.measured(row, runs, rounds, lean=lean, tolerance=tolerance)
    row.deviations["folded"] = folding
    return row


def _folding(models: plain.Pair, defense: AdvMask, classes: Sequence[str], images: Tensor, tolerance: float) -> float:
    """How far the image features of the folded open_clip checkpoint are from those of the masked tower."""
    adaptation = defense.adaptation(models.backbone, classes)
    weights = {key: value.to(images) for key, value in folded(models.backbone, adaptation).items()}
    net = (images - models.backbone.mean) / models.backbone.std
    with torch.no_grad():
        masked = assemble(models.backbone, classes, adaptation).encode_image(images)
        visual = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
        return harness.check("folded features", functional_call(models.lean.visual, visual, (net,)), masked, tolerance)


def _stirred(defense: AdvMask) -> AdvMask:
    """The defence with about a fortieth of the weights dropped, the share that regularised mask tuning reports."""
    drawn = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for scores in defense.scores:
            scores.copy_(0.004 + 0.04 * torch.rand(scores.shape, generator=drawn))
    return defense


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return (scores > 5e-3).to(scores)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return slopes[0]


class PlainMasked(nn.Module):
    """CLIP with masked attention weights, written out layer by layer, and LAFA (OpenReview kzGkXpW4FT)."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, defense: AdvMask, classes: Sequence[str]) -> None:
        super().__init__()
        self.held = tuple(defense.held)
        self.scores = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in defense.scores])
        self.learned = dict(self.named_parameters())
        self.model = model
        words = model.token_embedding.weight
        self.ids = plain.tokenizer(model.context_length)([TEMPLATE.format(name) for name in classes])
        self.register_buffer("mean", words.detach().new_tensor(plain.OPENAI_MEAN).view(3, 1, 1))
        self.register_buffer("std", words.detach().new_tensor(plain.OPENAI_STD).view(3, 1, 1))

    def blocks(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Unit features and the output of every block."""
        net, outputs = self.model.visual, []
        own = dict(net.named_parameters())
        weights = {name: own[name] * _Gate.apply(p) for name, p in zip(self.held, self.scores)}
        patches = net.conv1((images - self.mean) / self.std).flatten(2).transpose(1, 2)
        start = net.class_embedding.expand(len(images), 1, -1)
        tokens = net.ln_pre(torch.cat([start, patches], dim=1) + net.positional_embedding)
        for layer, block in enumerate(net.transformer.resblocks):
            prefix = f"transformer.resblocks.{layer}."
            masked = {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}
            tokens = functional_call(block, masked, (tokens,))
            outputs.append(tokens)
        return F.normalize(net.ln_post(tokens)[:, 0] @ net.proj, dim=-1), outputs

    def logits(self, features: Tensor) -> Tensor:
        return self.model.logit_scale.exp() * features @ F.normalize(self.model.encode_text(self.ids), dim=-1).T

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.blocks(images)[0])

    def objective(self, batch: Batch, adv: Tensor) -> Tensor:
        clean, moved = self.blocks(batch.images), self.blocks(adv)
        sure = self.logits(clean[0]).softmax(1).gather(1, batch.labels[:, None])[:, 0].detach()
        omega = sure / (sure.mean() + 1e-8)
        gaps = [(omega * (a - b).square().mean((1, 2))).mean() for a, b in zip(clean[1], moved[1])]
        return F.cross_entropy(self.logits(moved[0]), batch.labels) + 50 * sum(gaps) / len(gaps)


rows = steps.each(measure)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
