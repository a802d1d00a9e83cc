"""Two branches over one image, the class token's and the shield's, and their fusion into one set of logits.

Source: cheny02/DEFEAT-ICLR2026 trainers/defeat.py (CustomCLIP averages logits); the paper averages probabilities.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.backbones.assembly import ScaledCosine
from ironclip.core.tensors import doubled
from ironclip.core.types import ImageOutput, Trace
from ironclip.defenses._quantiser import Assign, straight_through
from ironclip.defenses._shield import PatchPool, Reconstruction, Shield, start_like_torch

Fusion = Literal["logits", "probs"]
Level = Literal["grid", "class"]


@dataclass(frozen=True)
class Branches:
    """Logits [B, K] of both branches, the weight of the class branch (a number or [B, 1]), and the shield's reconstruction."""

    of_class: Tensor
    of_shield: Tensor
    weight: float | Tensor
    made: Reconstruction
    pooled: Tensor


class FusionGate(nn.Module):
    """The class branch's weight [B, 1] in (0, 1) for every image, from the unit features of both branches; 0.5 at the start."""

    def __init__(self, embed_dim: int, hidden: int = 16, generator: torch.Generator | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.first, self.last = nn.Linear(2 * embed_dim, hidden), nn.Linear(hidden, 1)
        start_like_torch(self.first, generator)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, pooled: Tensor) -> Tensor:
        both = torch.cat([F.normalize(features, dim=-1), F.normalize(pooled, dim=-1)], dim=-1)
        return torch.sigmoid(self.last(F.relu(self.first(both))))


class ShieldHead(nn.Module):
    """Logits of the image: those of its class token and those of its rebuilt grid, fused.

    Args:
        level: what the shield rebuilds: the "grid" of patch tokens or the "class" feature alone (a grid of one).
        fusion: "logits" averages logits [code], "probs" probabilities [paper]; both give logits.
        weight: of the class branch, in [0, 1]; 1 leaves the shield out; ignored with a gate.
    """

    def __init__(
        self, shield: Shield, pool: PatchPool, cosine: ScaledCosine, *, level: Level, fusion: Fusion, weight: float,
        gate: FusionGate | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shield, self.pool, self.gate = shield, pool, gate
        self.cosine, self.level, self.fusion, self.weight = cosine, level, fusion, weight

    def trace(self) -> Trace | None:
        return None if self.gate is None and self.weight == 1 else self.observer()

    def observer(self) -> Trace | None:
        """The trace that the shield needs, also where its weight is 0."""
        return Trace(tokens=False, grid=True) if self.level == "grid" else None

    def grid(self, output: ImageOutput) -> Tensor:
        """[B, N, D] of what the shield rebuilds, not normalised [code]."""
        if self.level == "class":
            return output.features[:, None]
        assert output.trace is not None
        assert output.trace.projected is not None
        return output.trace.projected

    def branches(self, output: ImageOutput, text_features: Tensor, assign: Assign = straight_through) -> Branches:
        made = self.shield(self.grid(output), assign)
        pooled = self.pool(made.rebuilt)
        return Branches(
            of_class=self.cosine(output, text_features),
            of_shield=self.cosine(ImageOutput(pooled), text_features),
            weight=self.weight if self.gate is None else self.gate(output.features, pooled),
            made=made,
            pooled=pooled,
        )

    def fuse(self, of_class: Tensor, of_shield: Tensor, weight: float | Tensor) -> Tensor:
        """[B, K] logits; a branch of weight 0 has no effect, even if it is NaN."""
        if isinstance(weight, float | int):
            if weight in (0, 1):
                return of_class if weight else of_shield
            logs: tuple[float | Tensor, float | Tensor] = (math.log(weight), math.log1p(-weight))
        else:
            logs = (weight.clamp_min(1e-12).log(), (1 - weight).clamp_min(1e-12).log())
        if self.fusion == "logits":
            return weight * of_class + (1 - weight) * of_shield
        return torch.logaddexp(of_class.log_softmax(1) + logs[0], of_shield.log_softmax(1) + logs[1])

    def compared(self, clean: ImageOutput, moved: ImageOutput) -> dict[str, Tensor]:
        """[B] of the same images before and after an attack, p the pooled feature of the shield: |p(x') - p(x)| / |p(x)|,
        1 - cos, and the share of positions with the same code (the paper's claim)."""
        (ours, codes), (theirs, others) = self._pooled(clean), self._pooled(moved)
        return {
            "shield_distortion": (theirs - ours).norm(dim=1) / ours.norm(dim=1).clamp_min(1e-12),
            "shield_cosine": 1 - torch.cosine_similarity(theirs, ours, dim=1, eps=1e-12),
            "codes_kept": doubled(codes == others).mean(1),
        }

    def _pooled(self, output: ImageOutput) -> tuple[Tensor, Tensor]:
        """[B, E] pooled features in double precision, and [B, N] the codes of the positions."""
        made = self.shield(self.grid(output))
        return doubled(self.pool(made.rebuilt)), self.shield.quantiser.nearest(made.latent)

    def forward(self, output: ImageOutput, text_features: Tensor) -> Tensor:
        if self.gate is None and self.weight == 1:
            return self.cosine(output, text_features)
        found = self.branches(output, text_features)
        return self.fuse(found.of_class, found.of_shield, found.weight)
