"""One training step of DEFEAT as released (three inner steps of PGD) against the plain reference.

Plain: as the released code has it (cheny02/DEFEAT-ICLR2026, trainers/defeat.py), in float32: prompts over the whole context
recomputed in every inner step, the distances to all codes as one tensor [B, K, d, G, G], `.backward()` to every parameter.
Lean: the same with CLIP's parameters frozen.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import harness, plain, steps
from benchmarks.apt_step import ATTACK
from ironclip.core.types import Batch
from ironclip.defenses.defeat import DEFEAT

RELEASED: dict[str, Any] = {"pre_norm": "none", "decay": 0, "start": "uniform", "revive_below": 0, "commitment": 0.025}
HAND = "a photo of a {}."


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    tolerance: tuple[float, float, float] = (1e-6, 1e-4, 1e-4),
    **sizes: int,
) -> harness.Row:
    """Equality of loss, all learned gradients and adversarial pixels within `tolerance`, then the times (none for 0 rounds).

    Equality is asserted in float64: in float32 a latent between two codes may go to either. Times are those of float32.

    Args:
        sizes: options `codes` and `latent_width` of the defence.
    """
    row = harness.Row("DEFEAT step", f"{name}, C={count}, B={size}")
    exact = _paths(name, count, size, torch.float64, sizes)
    row.deviations = steps.compare(exact["ours"](), exact["plain"](), tolerance)
    if rounds:
        paths = _paths(name, count, size, torch.float32, sizes)
        row.seconds = harness.seconds({path: run for path, run in paths.items() if lean or path != "lean"}, rounds)
    return row


def _paths(name: str, count: int, size: int, dtype: torch.dtype, sizes: Mapping[str, int]) -> dict[str, Callable[[], steps.Step]]:
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    options = {**RELEASED, **sizes, "templates": (HAND,)}
    defense = DEFEAT(models.backbone, classes, generator=torch.Generator().manual_seed(2), **options).to(dtype)
    _spread(defense)

    def outer(towers: PlainDefeat, batch: Batch, adv: Tensor) -> Tensor:
        return towers.loss(adv, batch.labels)

    towers = lambda model: PlainDefeat(model, defense, classes)  # noqa: E731
    return steps.paths(models, batch, noise, defense, ATTACK, towers, outer=outer)


@torch.no_grad()
def _spread(defense: DEFEAT) -> None:
    """Codes of the size of the latents: those of the released start lie so close that rounding may choose."""
    codes = defense.shield.quantiser.codebook
    codes.copy_(torch.randn(codes.shape, generator=torch.Generator().manual_seed(4)).to(codes))


class PlainDefeat(plain.PlainPrompts):
    """DEFEAT's forward pass and objective with copies of what the defence has learned."""

    def __init__(self, model: Any, defense: DEFEAT, classes: Sequence[str]) -> None:
        assert defense.context is not None
        super().__init__(model, defense.context, classes)
        self.learned = {name: nn.Parameter(p.detach().clone()) for name, p in defense.named_parameters()}
        self.words = self.learned["context"]
        self.copies = nn.ParameterList(self.learned.values())
        ids = plain.tokenizer(model.context_length)([HAND.replace("{}", name) for name in classes])
        with torch.no_grad():
            self.register_buffer("hand", F.normalize(model.encode_text(ids), dim=-1))

    def conv(self, name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.learned[f"{name}.weight"], self.learned[f"{name}.bias"], padding=padding)

    def residual(self, name: str, x: Tensor) -> Tensor:
        return x + self.conv(f"{name}.conv2", self.conv(f"{name}.conv1", x.relu()).relu(), 0)

    def branches(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, K] and unit features of both branches; grid, rebuilt, latent and codes as maps."""
        net, shield = self.model.visual, "branch.shield"
        patches = net.conv1((images - self.mean) / self.std).flatten(2).transpose(1, 2)
        start = net.class_embedding.expand(len(images), 1, -1)
        tokens = net.transformer(net.ln_pre(torch.cat([start, patches], dim=1) + net.positional_embedding))
        tokens = net.ln_post(tokens) @ net.proj
        side = round(patches.shape[1] ** 0.5)
        grid = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        latent = self.conv(f"{shield}.encoder.0", grid).relu()
        latent = self.residual(f"{shield}.encoder.3", self.conv(f"{shield}.encoder.2", latent))
        codebook = self.learned[f"{shield}.quantiser.codebook"]
        distances = (latent.detach()[:, None] - codebook.detach()[:, :, None, None]).square().sum(2)
        codes = codebook[distances.argmin(1)].permute(0, 3, 1, 2)
        rebuilt = self.residual(f"{shield}.decoder.1", self.conv(f"{shield}.decoder.0", latent + (codes - latent).detach()))
        last = (self.learned[f"{shield}.decoder.2.{name}"] for name in ("weight", "bias"))
        rebuilt = F.conv_transpose2d(rebuilt, *last, padding=1)
        pooled = F.linear(rebuilt.flatten(2), self.learned["branch.pool.weight"], self.learned["branch.pool.bias"]).squeeze(-1)
        by_class, by_shield, text = F.normalize(tokens[:, 0], dim=-1), F.normalize(pooled, dim=-1), self.text()
        logits = self.model.logit_scale.exp() * (by_class @ text.T + by_shield @ text.T) / 2
        return logits, by_class, by_shield, text, grid, rebuilt, latent, codes

    def forward(self, images: Tensor) -> Tensor:
        return self.branches(images)[0]

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        logits, by_class, by_shield, text, grid, rebuilt, latent, codes = self.branches(images)
        total = F.cross_entropy(logits, labels) + 0.5 * F.mse_loss(rebuilt, grid.detach())
        total = total + 0.1 * F.mse_loss(codes, latent.detach()) + 0.025 * F.mse_loss(latent, codes.detach())
        return total + 10 * F.l1_loss(by_class.detach(), by_shield) + 20 * F.l1_loss(text, self.hand)


rows = steps.each(measure, counts=(10,))


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
