"""Which matrices are masked in which tower, the gate, bits, set operations, storage, and folding into plain weights."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ironclip.backbones import assemble
from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.folding import folded
from ironclip.backbones.text import TextTower
from ironclip.backbones.tiny import tiny_backbone, tiny_clip
from ironclip.backbones.vit import VitTower
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.types import Adaptation, BackboneSpec, Mask
from ironclip.defenses import build
from ironclip.defenses._masks import MaskGate, chosen, maskable, pack, unpack
from ironclip.defenses.advmask import AdvMask

SIZES = {"vitb32": (12, 768, 28_311_552, 3_538_944), "vitl14": (24, 1024, 100_663_296, 12_582_912)}


def spec(layers: int, width: int, kind: str = "vit", names: tuple[str, ...] = ()) -> BackboneSpec:
    parts = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    names = names or tuple(f"transformer.resblocks.{i}.{part}" for i in range(layers) for part in parts)
    return BackboneSpec(
        name="sizes", kind=kind, image_layers=layers, image_width=width, text_layers=1, text_width=8, embed_dim=8, grid=2,
        image_tokens=5, resolution=32, context_length=77, logit_scale=1.0, activation="gelu", mean=(0.0,) * 3, std=(1.0,) * 3,
        image_weights=names,
    )  # fmt: skip


class Shapes:
    """A backbone that has the shapes of a ViT's weights and no numbers."""

    def __init__(self, layers: int, width: int) -> None:
        self.spec, self.device, self.dtype = spec(layers, width), torch.device("meta"), torch.float32

    def image_weight(self, name: str) -> torch.Tensor:
        width = self.spec.image_width
        rows, columns = {"in": (3, 1), "out": (1, 1), "c_fc": (4, 1), "c_pr": (1, 4)}[
            next(part for part in ("in", "out", "c_fc", "c_pr") if f".{part}" in name)
        ]
        return torch.empty(rows * width, columns * width, device="meta")


@pytest.mark.parametrize("name", SIZES)
def test_scores_and_bytes_of_the_published_backbones(name):
    layers, width, numbers, stored = SIZES[name]
    defense = AdvMask(Shapes(layers, width), ["a", "b"])
    assert len(defense.scores) == 2 * layers
    assert sum(scores.numel() for scores in defense.scores) == 4 * layers * width**2 == numbers
    bits = {n: -(-scores.numel() // 8) for n, scores in zip(defense.held, defense.scores, strict=True)}
    assert sum(bits.values()) == stored
    if name == "vitb32":
        assert stored == 3.375 * 2**20


def test_what_is_stored_has_exactly_these_bytes():
    defense = AdvMask(tiny_backbone(), ["a", "b"])
    with torch.no_grad():
        defense.scores[0][0, 0] = 0
    stored = defense.learned()
    assert {tensor.dtype for tensor in stored.values()} == {torch.uint8}
    assert sum(tensor.numel() for tensor in stored.values()) == 2 * 4 * 32**2 // 8


# ---- which matrices

TIMM = ("trunk.blocks.0.attn.qkv.weight", "trunk.blocks.0.attn.proj.weight", "trunk.blocks.0.mlp.fc1.weight",
        "trunk.blocks.0.mlp.fc2.weight", "trunk.attn_pool.q.weight")  # fmt: skip
EVA = tuple(f"trunk.blocks.0.{n}.weight" for n in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.proj",
                                                   "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"))  # fmt: skip


def test_targets_become_names_in_every_kind_of_tower():
    vit = maskable(spec(2, 8), chosen("attention"))
    assert list(vit) == [f"transformer.resblocks.{i}.attn.{n}" for i in (0, 1) for n in ("in_proj_weight", "out_proj.weight")]
    assert vit["transformer.resblocks.0.attn.in_proj_weight"] == ("q", "k", "v")
    both = maskable(spec(2, 8), chosen("both"), [1])
    assert len(both) == 4
    assert all("resblocks.1." in name for name in both)
    timm = maskable(spec(1, 8, "timm", TIMM), chosen(["v", "out", "mlp_fc", "conv"]))
    assert timm == {
        "trunk.patch_embed.proj.weight": ("conv",),
        TIMM[0]: ("v",),
        TIMM[1]: ("out",),
        TIMM[2]: ("mlp_fc",),
    }
    assert maskable(spec(1, 8, "timm", EVA), chosen("both")) == {
        EVA[0]: ("q",), EVA[1]: ("k",), EVA[2]: ("v",), EVA[3]: ("out",), EVA[4]: ("mlp_fc",), EVA[5]: ("mlp_fc",),
        EVA[6]: ("mlp_proj",),
    }  # fmt: skip


def test_a_part_of_a_fused_matrix_leaves_the_other_rows_alone(backbone, batch):
    defense = AdvMask(backbone, batch.classes, targets=["q", "v"], layers=[1])
    (scores,) = defense.scores
    assert scores.shape == (64, 32)
    with torch.no_grad():
        scores.zero_()
    ((name, mask),) = defense.adaptation(backbone, batch.classes).image_weights.items()
    assert name == "transformer.resblocks.1.attn.in_proj_weight"
    assert mask.values[32:64].all()
    assert not mask.values[:32].any()
    assert not mask.values[64:].any()


def test_a_tower_or_target_that_is_not_there_is_refused(rn50):
    with pytest.raises(UnsupportedEdit, match="no transformer blocks"):
        maskable(rn50.spec, ("q",))
    with pytest.raises(UnsupportedEdit, match="no weights of the kind mlp_fc"):
        maskable(spec(1, 8, "timm", TIMM[:2]), ("q", "mlp_fc"))


# ---- gate and bits


def test_the_gate_is_strict_and_hands_slopes_on_as_they_are():
    scores = torch.tensor([0.004, 0.005, 0.0051, -3.0, 9.0], requires_grad=True)
    mask = MaskGate.apply(scores, float(torch.tensor(0.005)))
    assert mask.tolist() == [0.0, 0.0, 1.0, 0.0, 1.0]
    slope = torch.arange(5.0) - 2
    (back,) = torch.autograd.grad(mask, scores, slope)
    assert torch.equal(back, slope)  # also where the score lies below the threshold, so that bits can come back


@pytest.mark.parametrize("shape", [(1,), (3, 3), (8,), (5, 13), (16, 4)])
def test_bits_come_back_and_the_first_is_the_most_significant(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    bits = pack(mask)
    assert bits.numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack(bits, shape), mask)
    assert int(bits[0]) == int("".join(str(int(bit)) for bit in mask.flatten()[:8]).ljust(8, "0"), 2)


def test_bits_of_another_number_are_refused():
    with pytest.raises(UsageError, match=r"a mask of shape \(3, 3\) is 2 bytes; got 3"):
        unpack(torch.zeros(3, dtype=torch.uint8), (3, 3))


# ---- folding


def stirred(backbone, classes, **options):
    defense = AdvMask(backbone, classes, **options)
    drawn = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for scores in defense.scores:
            scores.copy_(torch.rand(scores.shape, generator=drawn) * 0.02)
    return defense


@pytest.mark.parametrize("targets", ["attention", "both", ["k", "conv"]])
def test_folded_and_masked_models_agree(backbone, batch, targets):
    defense = stirred(backbone, batch.classes, targets=targets)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    adaptation = defense.adaptation(backbone, batch.classes)
    model = tiny_clip()
    found, missing = model.state_dict(), folded(backbone, adaptation)
    assert found.keys() == missing.keys()
    model.load_state_dict(missing)
    plain = ClipBackbone(
        VitTower(model.visual), TextTower(model), backbone._tokenizer, name="folded", activation="quick_gelu",
        logit_scale=float(model.logit_scale.detach().exp()),
    )  # fmt: skip
    masked = assemble(backbone, batch.classes, adaptation)(batch.images)
    assert_close(assemble(plain, batch.classes)(batch.images), masked, atol=1e-6, rtol=1e-6)
    assert (masked - assemble(backbone, batch.classes)(batch.images)).abs().max() > 0.01
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())
    restored = folded(backbone, Adaptation())
    assert all(torch.equal(restored[name], tensor) for name, tensor in tiny_clip().state_dict().items() if name != "logit_scale")


def test_text_weights_and_replaced_weights_fold_as_well(backbone, batch):
    name = "transformer.resblocks.0.attn.out_proj.weight"
    change = Adaptation(
        image_weights={name: torch.ones(32, 32)}, text_weights={name: Mask(torch.zeros(32, 32))}, templates=("a {}",)
    )
    plain, custom = folded(backbone, change), folded(backbone, change, custom_text=True)
    assert plain[f"visual.{name}"].eq(1).all()
    assert plain[name].eq(0).all()
    assert torch.equal(custom[f"text.{name}"], plain[name])
    assert custom.keys() - plain.keys() == {f"text.{key}" for key in plain if not key.startswith(("visual.", "logit_"))}


def test_what_is_no_weight_is_not_folded_silently(backbone, batch):
    stack = build("apt+advmask", backbone, batch.classes)
    with pytest.raises(UsageError, match="only weights can be folded into a checkpoint; this adaptation also holds context"):
        folded(backbone, stack.adaptation(backbone, batch.classes))


def test_numpy_reads_the_same_bits():
    mask = torch.rand(9, 5, generator=torch.Generator().manual_seed(2)) > 0.3
    assert np.array_equal(np.packbits(mask.numpy().reshape(-1)), pack(mask).numpy())
