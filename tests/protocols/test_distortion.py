"""The feature distortion: its four numbers against slow loops, and what they must be in cases that are known."""

import pytest
import torch
from torch.testing import assert_close

from ironclip import attacks
from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import DataError, UsageError
from ironclip.core.types import Adaptation, Batch
from ironclip.defenses import build
from ironclip.protocols.distortion import NAMES, distortion, measures, perturbing


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def batches(backbone, many=6, size=4):
    draw = torch.Generator().manual_seed(3)
    side = backbone.spec.resolution
    images = torch.rand(many, 3, side, side, generator=draw)
    for start in range(0, many, size):
        rows = torch.arange(start, min(many, start + size))
        yield Batch(images[rows], rows % 3, rows, ("cat", "dog", "car"))


def darker(images):
    return 0.5 * images


def test_the_measures_are_the_sums_written_out():
    clean, moved, original = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1))
    found = measures(clean, moved, original)
    for row, (f, g, o) in enumerate(zip(clean.tolist(), moved.tolist(), original.tolist())):
        length = sum(a * a for a in f) ** 0.5
        relative = sum((b - a) ** 2 for a, b in zip(f, g)) ** 0.5 / length
        cosine = 1 - sum(a * b for a, b in zip(f, g)) / length / sum(b * b for b in g) ** 0.5
        shifts = [sum((a - b) ** 2 for a, b in zip(x, o)) for x in (f, g)]
        assert_close(found[row], torch.tensor([relative, cosine, *shifts], dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_an_undefended_model_lies_where_the_frozen_one_lies_and_an_attack_moves_it(backbone):
    plain = assemble(backbone, ["cat", "dog", "car"])
    still = distortion(plain, attacks.build("pgd", eps=0.0, steps=2), batches(backbone))
    assert still == pytest.approx(dict.fromkeys(NAMES, 0.0), abs=1e-6)
    near, far = (distortion(plain, attacks.build("feature", eps=eps, steps=10), batches(backbone)) for eps in (1 / 255, 8 / 255))
    assert 0 < near["distortion"] < far["distortion"]
    assert near["clean_shift"] == 0
    assert near["adversarial_shift"] > 0
    assert 0 < near["cosine"] < far["cosine"]


def test_a_defence_moves_clean_features_too_and_batches_do_not_matter(backbone):
    changed = assemble(backbone, ["cat", "dog", "car"], Adaptation(pixels=(darker,)))
    attack = attacks.build("pgd", eps=4 / 255, steps=3)
    one, other = (distortion(changed, attack, batches(backbone, size=size)) for size in (2, 6))
    assert one["clean_shift"] > 0
    assert one == pytest.approx(other, rel=1e-4)


def test_a_head_with_features_of_its_own_is_compared_too(backbone):
    names = ("cat", "dog", "car")
    defense = build("defeat", backbone, names, generator=torch.Generator().manual_seed(0), given={"length": 2, "codes": 8})
    with torch.no_grad():
        shielded = assemble(backbone, names, defense.adaptation(backbone, names))
    found = distortion(shielded, attacks.build("pgd", eps=8 / 255, steps=3), batches(backbone))
    assert found["clean_shift"] < 1e-9  # the class token is that of the bare tower
    assert found["shield_distortion"] > 0
    assert 0 <= found["codes_kept"] <= 1


def test_every_image_is_attacked():
    assert perturbing(attacks.build("pgd", eps=1 / 255, mode="compact")).mode == "full"
    assert perturbing(attacks.build("fgsm", eps=1 / 255)).eps == 1 / 255
    for name in ("fab", "autoattack"):
        with pytest.raises(UsageError, match="perturbs every image"):
            perturbing(attacks.build(name, eps=1 / 255))


def test_no_image_is_an_error(backbone):
    with pytest.raises(DataError, match="no image"):
        distortion(assemble(backbone, ["cat", "dog"]), attacks.build("fgsm", eps=0.01), [])
