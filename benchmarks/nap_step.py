"""One training step of NAP (two inner steps of PGD) against the plain reference.

Plain: both towers written out layer by layer as in methods that fork CLIP: prompts and refiners over the whole context,
recomputed in every inner step, `.backward()` to every parameter. Lean: the same with CLIP's parameters frozen.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import harness, plain
from benchmarks.apt_step import Step, compare
from ironclip.attacks import PGD
from ironclip.defenses.nap import NAP

EPS = 1 / 255
ATTACK = PGD(EPS, step_size=EPS, steps=2, keep="last")


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for name in ["small"] if quick else ["mini", "small", "vitb32"]:
        for count in (10, 100):
            yield measure(name, count, 32, rounds, lean=not quick)


def measure(
    name: str,
    count: int,
    size: int,
    rounds: int,
    *,
    lean: bool = True,
    dtype: torch.dtype = torch.float32,
    tolerance: tuple[float, float, float] = (1e-5, 1e-3, 1e-3),
) -> harness.Row:
    """Equality of loss, all learned gradients and adversarial pixels within `tolerance`, then the times (none for 0 rounds)."""
    models = plain.pair(name, dtype)
    classes = plain.class_names(count)
    batch, noise = plain.random_batch(models, classes, size)
    defense = _moved(NAP(models.backbone, classes, generator=torch.Generator().manual_seed(2)).to(dtype))
    given, frozen = PlainNap(models.plain, defense, classes), PlainNap(models.lean, defense, classes)

    def ours() -> Step:
        adv: list[Tensor] = []

        def attack(*args: object, **options: object) -> Tensor:
            adv.append(ATTACK(*args, **options, noise=noise))  # type: ignore[arg-type]
            return adv[0]

        defense.zero_grad(set_to_none=True)
        loss = torch.stack(list(defense.loss(models.backbone, batch, attack).values())).sum()
        loss.backward()
        return loss, adv[0], {name: p.grad.clone() for name, p in defense.named_parameters() if p.grad is not None}

    def reference(towers: PlainNap) -> Step:
        adv = plain.plain_pgd(towers, batch.images, batch.labels, noise, eps=EPS, step=EPS, steps=2, box=True)
        loss = F.cross_entropy(towers(adv), batch.labels)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in towers.learned.items() if p.grad is not None}
        towers.zero_grad(set_to_none=True)
        return loss, adv, gradients

    row = harness.Row("NAP step", f"{name}, C={count}, B={size}")
    row.deviations = compare(ours(), reference(given), tolerance)
    if rounds:
        paths: dict[str, harness.Path] = {"plain": partial(reference, given), "ours": ours}
        if lean:
            paths["lean"] = partial(reference, frozen)
        row.seconds = harness.seconds(paths, rounds)
    return row


def _moved(defense: NAP) -> NAP:
    """The defence with its refiners away from zero, where every gradient is alive."""
    drawn = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in defense.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=drawn).to(parameter))
    return defense


class PlainNap(plain.PlainPrompts):
    """NAP-Tuning's two towers with copies of what the defence has learned (arXiv 2506.12706; full prompt depth)."""

    def __init__(self, model: Any, defense: NAP, classes: Sequence[str]) -> None:
        assert defense.context is not None
        template = defense.template.removeprefix("{ctx} ")
        super().__init__(model, defense.context, classes, template)
        self.learned = {name: nn.Parameter(p.detach().clone()) for name, p in defense.named_parameters()}
        self.words = self.learned["context"]
        self.copies = nn.ParameterList(self.learned.values())

    def refine(self, side: str, layer: int, tokens: Tensor) -> Tensor:
        first, second = (f"{side}_refiners.refiners.{layer}.net.{i}" for i in (0, 2))
        hidden = F.gelu(F.linear(tokens, self.learned[f"{first}.weight"], self.learned[f"{first}.bias"]))
        return tokens + F.linear(hidden, self.learned[f"{second}.weight"], self.learned[f"{second}.bias"])

    def text(self) -> Tensor:
        model, count, classes = self.model, len(self.words), len(self.embeddings)
        positions = model.positional_embedding
        tokens = self.embeddings + positions
        for layer, block in enumerate(model.transformer.resblocks):
            refined = self.refine("text", layer, tokens)
            fresh = self.learned["text_prompts.tokens"][layer - 1] if layer else self.words + positions[1 : 1 + count]
            fresh = fresh.expand(classes, -1, -1)
            tokens = torch.cat([refined[:, :1], fresh, refined[:, 1 + count :]], dim=1)
            tokens = block(tokens, attn_mask=model.attn_mask)
        tokens = model.ln_final(tokens)
        return F.normalize(tokens[torch.arange(classes), self.eot] @ model.text_projection, dim=-1)

    def image(self, images: Tensor) -> Tensor:
        net = self.model.visual
        patches = net.conv1((images - self.mean) / self.std).flatten(2).transpose(1, 2)
        start = net.class_embedding.expand(len(images), 1, -1)
        tokens = net.ln_pre(torch.cat([start, patches], dim=1) + net.positional_embedding)
        count = tokens.shape[1]
        for layer, block in enumerate(net.transformer.resblocks):
            fresh = self.learned["image_prompts.tokens"][layer].expand(len(images), -1, -1)
            tokens = block(torch.cat([self.refine("image", layer, tokens), fresh], dim=1))[:, :count]
        return F.normalize(net.ln_post(tokens)[:, 0] @ net.proj, dim=-1)


def main(argv: Sequence[str] | None = None) -> int:
    return harness.main(rows, __doc__ or "", argv)


if __name__ == "__main__":
    sys.exit(main())
