"""Training in bf16: the towers round, while losses, gradients and what is learned stay float32."""

import pytest
import torch

from ironclip import defenses
from ironclip.attacks import PGD
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.schedule import Schedule
from ironclip.core.types import Batch
from ironclip.loops.training import fit

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(torch.rand(4, 3, 32, 32, generator=draw), torch.arange(4) % 2, torch.arange(4), CLASSES)


@pytest.mark.parametrize("name", ["apt", "nap", "fare", "tga_zsr", "advmask", "defeat"])
def test_bf16_rounds_the_towers_inside_a_step_and_nothing_else(monkeypatch, batch, name):
    backbone = tiny_backbone()
    tower, seen = backbone.image.forward, []

    def watched(*args, **options):
        output = tower(*args, **options)
        seen.append(output.dtype)
        return output

    monkeypatch.setattr(backbone.image, "forward", watched)
    learned, losses = {}, {}
    for precision in ("float32", "bf16"):
        seen.clear()
        given = {"length": 2} if "length" in defenses.options(name) else {}
        defense = defenses.build(name, backbone, CLASSES, generator=torch.Generator().manual_seed(0), given=given)
        defense.prepare(backbone, [batch])
        events: list[dict] = []
        schedule = Schedule(epochs=1, batch_size=4, lr=0.001, warmup_epochs=0)
        options = {"schedule": schedule, "precision": precision, "callback": events.append}
        seen.clear()
        fit(defense, backbone, lambda epoch: [batch], PGD(eps=4 / 255, steps=1), **options)
        assert torch.bfloat16 in seen if precision == "bf16" else set(seen) == {torch.float32}
        learned[precision] = {key: tensor.clone() for key, tensor in defense.state_dict().items()}
        losses[precision] = sum(events[0]["terms"].values())
        assert all(tensor.dtype == torch.float32 for tensor in learned[precision].values() if tensor.is_floating_point())
    assert any(not torch.equal(learned["float32"][key], learned["bf16"][key]) for key in learned["bf16"])
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.2)


def test_outside_autocast_features_and_logits_are_as_before_and_inside_they_are_float32(batch):
    from ironclip.backbones import assemble

    backbone = tiny_backbone()
    classifier = assemble(backbone, CLASSES)
    with torch.no_grad():
        plain = classifier(batch.images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded, exact = classifier(batch.images), assemble(backbone, CLASSES, precision="float32")(batch.images)
            features = backbone.encode_image(batch.images)
    assert {plain.dtype, rounded.dtype, features.dtype} == {torch.float32}
    assert torch.equal(exact, plain)
    assert not torch.equal(rounded, plain)
