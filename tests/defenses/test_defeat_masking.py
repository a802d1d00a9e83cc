"""The published recipe on a synthetic stand-in: its shield hides the class branch from an attack on the fused logits alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ironclip.attacks.pgd import PGD
from ironclip.backbones.assembly import ScaledCosine
from ironclip.core.threat import Threat
from ironclip.core.types import Batch, ImageOutput
from ironclip.defenses import _defeat_attacks
from ironclip.defenses._fusion import ShieldHead
from ironclip.defenses._shield import PatchPool, Shield
from ironclip.loops.evaluation import evaluate

INPUTS, WIDTH, GRID, CLASSES = 64, 128, 4, 50
EPS = 0.06


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class StandIn(nn.Module):
    """Inputs in [0, 1], a class centre and noise, from which fixed linear maps make a class feature and patch tokens."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = drawn(seed)
        self.classes = tuple(f"class {i}" for i in range(CLASSES))
        self.maps = torch.randn(1 + GRID**2, INPUTS, WIDTH, generator=draw) * INPUTS**-0.5
        self.maps[1:] = 0.7 * self.maps[:1] + 0.7 * self.maps[1:]
        self.centres = 0.3 + 0.4 * torch.rand(CLASSES, INPUTS, generator=draw)
        self.text_features = F.normalize((self.centres - 0.5) @ self.maps[0], dim=-1)
        shield = Shield(WIDTH, 64, 512, decay=0.0, pre_norm="none", generator=draw)
        cosine = ScaledCosine(100.0)
        self.head = ShieldHead(shield, PatchPool(GRID**2, draw), cosine, level="grid", fusion="logits", weight=0.5)

    def batch(self, size: int, draw: torch.Generator):
        labels = torch.randint(CLASSES, (size,), generator=draw)
        inputs = self.centres[labels] + 0.08 * torch.randn(size, INPUTS, generator=draw)
        return inputs.clamp(0, 1), labels

    def encode_image(self, images, trace=None):
        tokens = torch.einsum("bm,nmd->bnd", 4 * (images - 0.5), self.maps)
        if trace is not None:
            trace.projected = tokens[:, 1:]
        return tokens[:, 0]

    def forward(self, images):
        trace = self.head.trace()
        return self.head(ImageOutput(self.encode_image(images, trace), trace), self.text_features)

    def loss(self, images, labels):
        """The released objective on clean inputs, without the term of the text."""
        trace = self.head.trace()
        output = ImageOutput(self.encode_image(images, trace), trace)
        found = self.head.branches(output, self.text_features)
        made, quantiser = found.made, self.head.shield.quantiser
        codes = quantiser.look_up(quantiser.nearest(made.latent))
        units = [F.normalize(features, dim=-1) for features in (output.features, found.pooled)]
        total = F.cross_entropy(self.head.fuse(found.of_class, found.of_shield, found.weight), labels)
        total = total + 0.5 * F.mse_loss(made.rebuilt, made.grid) + 0.1 * F.mse_loss(codes, made.latent.detach())
        return total + 0.025 * F.mse_loss(made.latent, codes.detach()) + 10 * F.l1_loss(*units)


@pytest.mark.slow
def test_the_surrogates_break_what_an_attack_on_the_fused_logits_leaves():
    model, draw = StandIn(0), drawn(99)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9, weight_decay=5e-4)
    for _ in range(800):
        loss = model.loss(*model.batch(32, draw))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = model.batch(100, drawn(5))
    batch = Batch(images, labels, torch.arange(100), model.classes)
    attack = {"pgd": PGD(EPS, steps=30)}

    def robust(knowledge, surrogates=()):
        found = evaluate(model, attack, [batch], Threat(eps=EPS, knowledge=knowledge), surrogates=surrogates)
        return sum(sample.robust for sample in found.samples)

    assert all(sample.right for sample in evaluate(model, {}, [batch], Threat(eps=EPS)).samples)
    health = model.head.shield.quantiser.health
    trace = model.head.observer()
    model.encode_image(images, trace)
    latent = model.head.shield.encode(trace.projected)
    assert health(latent, model.head.shield.quantiser.nearest(latent))["code_alarm"] == 1.0
    fused, worst = robust("white-box"), robust("adaptive", _defeat_attacks.of_head(model, model.head)[:3])
    assert worst <= fused - 20
