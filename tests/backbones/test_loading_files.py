"""Backbones from files: OpenAI's archives, every container, bare image towers, descriptions."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from loaded import RESNET, TEXTS, VIT, assert_same, base_note, shaken, write
from safetensors.torch import save_file
from torch.testing import assert_close
from weight_files import openai_archive

from ironclip.backbones import load
from ironclip.backbones.probe import make_probe
from ironclip.backbones.registry import ROBUST
from ironclip.backbones.wrapping import build
from ironclip.core.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("architectures")


@pytest.fixture(scope="module")
def resnet() -> open_clip.CLIP:
    torch.manual_seed(0)
    return shaken(build(RESNET, "quick_gelu"))


def test_openai_archives_need_no_more_than_their_path(model, tmp_path):
    path = openai_archive(model, tmp_path / "ViT-Tiny.pt")
    backbone = load(str(path))
    assert_same(backbone, model)
    assert (backbone.spec.activation, backbone.spec.name) == ("quick_gelu", "ViT-Tiny")
    assert_same(load("Tiny", weights=path), model)
    with pytest.raises(CheckpointError, match="was trained with quick_gelu \\(OpenAI's format\\); activation='gelu'"):
        load(f"Tiny@{path}", activation="gelu")


@pytest.mark.parametrize("which", ["model", "resnet"])
def test_openai_state_dicts_are_recognised_by_their_numbers(which, request, tmp_path):
    model = request.getfixturevalue(which)
    numbers = {name: torch.tensor(32) for name in ("input_resolution", "context_length", "vocab_size")}
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()}
    path = write(tmp_path / "openai.pt", {**half, **numbers})
    backbone = load(str(path))
    assert_same(backbone, model, tolerance=2e-2)
    assert backbone.spec.activation == "quick_gelu"
    assert backbone.spec.kind == ("resnet" if which == "resnet" else "vit")


def test_every_container_gives_the_same_backbone_and_hash(model, tmp_path):
    state = model.state_dict()
    files = [
        write(tmp_path / "a.safetensors", state),
        write(tmp_path / "b.pt", state),
        write(tmp_path / "c.bin", {"state_dict": state, "epoch": 3}),
        write(tmp_path / "d.pth", {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}),
    ]
    hashes = set()
    for file in files:
        backbone = load(f"Tiny@{file}", activation="quick_gelu")
        assert_same(backbone, model)
        hashes.add(backbone.spec.sha256)
    assert len(hashes) == 1
    changed = {**state, "logit_scale": state["logit_scale"] + 1e-6}
    assert load(f"Tiny@{write(tmp_path / 'e.pt', changed)}", activation="quick_gelu").spec.sha256 not in hashes


def test_safetensors_metadata_says_activation_and_architecture(model, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(model.state_dict(), path, metadata={"activation": "quick_gelu", "architecture": "Tiny"})
    for backbone in (load(str(path)), load(f"Tiny@{path}"), load("Tiny", weights=path)):
        assert_same(backbone, model)
        assert backbone.spec.activation == "quick_gelu"
    with pytest.raises(CheckpointError, match=r"was trained with quick_gelu \(its metadata\); activation='gelu'"):
        load(str(path), activation="gelu")


def test_the_activation_must_be_known(model, tmp_path):
    path = write(tmp_path / "unknown.pt", model.state_dict())
    with pytest.raises(CheckpointError, match="does not say whether it was trained with QuickGELU or GELU; say --activation"):
        load(f"Tiny@{path}")
    assert load(f"Tiny-quickgelu@{path}").spec.activation == "quick_gelu"
    gelu = load(f"Tiny@{path}", activation="gelu")
    quick = load(f"Tiny@{path}", activation="quick_gelu")
    images = torch.rand(1, 3, 32, 32)
    assert (gelu.encode_image(images) - quick.encode_image(images)).abs().max() > 1e-3


def test_tecoa_files_keep_the_text_tower_of_their_base(model, tmp_path, monkeypatch):
    torch.manual_seed(1)
    robust = shaken(build(VIT, "quick_gelu"))
    base = openai_archive(model, tmp_path / "base.pt")
    path = tmp_path / "vitb32_eps4.pth.tar"
    rest = {
        "epoch": 9,
        "state_dict": {},
        "best_acc1": np.float64(31.2),
        "optimizer": torch.optim.SGD([torch.zeros(1)]).state_dict(),
    }
    torch.save({**rest, "vision_encoder_state_dict": robust.visual.state_dict()}, path)
    monkeypatch.setitem(ROBUST, "tecoa-tiny-eps4", ROBUST["tecoa-vitb32-eps4"].__class__("Tiny", f"Tiny@{base}", path.name, "us"))
    expected = build(VIT, "quick_gelu").requires_grad_(False)
    expected.load_state_dict({**model.state_dict(), **{f"visual.{n}": t for n, t in robust.visual.state_dict().items()}})
    backbone = load("tecoa-tiny-eps4", weights=path)
    assert_same(backbone, expected)
    assert (backbone.spec.name, backbone.spec.activation) == ("tecoa-tiny-eps4", "quick_gelu")
    monkeypatch.setenv("IRONCLIP_WEIGHTS", str(tmp_path))
    assert load("tecoa-tiny-eps4").spec == backbone.spec
    assert load("Tiny", weights="tecoa-eps4").spec == backbone.spec


@pytest.mark.parametrize("prefix", ["", "visual.", "model.", "module.visual."])
def test_fare_files_are_a_bare_image_tower_with_or_without_a_prefix(model, tmp_path, prefix):
    torch.manual_seed(1)
    robust = shaken(build(VIT, "gelu"))
    base = tmp_path / "base.safetensors"
    save_file(model.state_dict(), base, metadata={"activation": "gelu"})
    path = write(tmp_path / "fare_eps_4.pt", {prefix + name: tensor for name, tensor in robust.visual.state_dict().items()})
    backbone = load("Tiny", weights=path, base=f"Tiny@{base}")
    assert backbone.spec.activation == "gelu", "an image tower has the activation of the model it was tuned from"
    images = torch.rand(2, 3, 32, 32)
    normal = (images - backbone.mean) / backbone.std
    assert_close(backbone.encode_image(images), robust.encode_image(normal), atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="was trained with gelu \\(as its base Tiny@"):
        load("Tiny", weights=path, base=f"Tiny@{base}", activation="quick_gelu")


def test_a_base_with_another_text_tower_is_refused_and_images_are_normalised_as_there(model, tmp_path):
    """The number of heads changes what a tower says and no shape."""
    path, state = write(tmp_path / "fare_eps_4.pt", model.visual.state_dict()), model.state_dict()
    base = base_note(write(tmp_path / "base.safetensors", state), VIT, mean=[0.1, 0.2, 0.3])
    assert load("Tiny", weights=path, base=str(base)).spec.mean == (0.1, 0.2, 0.3)
    other = base_note(write(tmp_path / "other.safetensors", state), {**VIT, "text_cfg": {**VIT["text_cfg"], "heads": 2}})
    with pytest.raises(CheckpointError, match=r"other\.safetensors describes a model with text_cfg\.heads 2; Tiny has 1$"):
        load("Tiny", weights=path, base=str(other))


def test_a_resnet_image_tower_loads_without_batch_counters(resnet, tmp_path):
    base = write(tmp_path / "base.pt", resnet.state_dict())
    tower = {name: tensor for name, tensor in resnet.visual.state_dict().items() if not name.endswith("num_batches_tracked")}
    backbone = load(
        "TinyRN", weights=write(tmp_path / "rn.pth.tar", {"vision_encoder_state_dict": tower}), base=str(base_note(base))
    )
    assert_same(backbone, resnet)


def test_a_description_beside_the_file_is_checked(model, tmp_path):
    path = base_note(write(tmp_path / "described.safetensors", model.state_dict()), VIT, mean=[0.1, 0.2, 0.3])
    backbone = load(str(path))
    assert_same(backbone, model)
    assert backbone.spec.mean == (0.1, 0.2, 0.3)
    probe = make_probe(backbone)
    base_note(path, VIT, probe=probe, mean=[0.1, 0.2, 0.3])
    load(str(path))
    base_note(path, {**VIT, "quick_gelu": True}, probe={**probe, "logits": [[9.0, 9.0], [9.0, 9.0]]})
    with pytest.raises(CheckpointError, match=r"probe logits are off by up to .* wrong activation or damaged weights"):
        load(str(path))
    base_note(path, VIT, sha256="0" * 64)
    with pytest.raises(CheckpointError, match=r"is not the file that described\.json describes"):
        load(str(path))
    path.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match=r"should describe described\.safetensors"):
        load(str(path))


def test_an_image_tower_with_a_description_names_its_text_tower(tmp_path):
    mini = load("mini")
    tower = {f"visual.{name}": tensor.clone() for name, tensor in mini.image.net.state_dict().items()}
    tower["visual.proj"] *= 2
    path = write(tmp_path / "sister.safetensors", tower)
    config = json.loads((Path(open_clip.__file__).parent / "model_configs" / "ViT-B-32.json").read_text())
    path.with_suffix(".json").write_text(
        json.dumps({"name": "sister", "architecture": {**config, "quick_gelu": False}, "text_tower": "mini"})
    )
    sister, images = load(str(path)), torch.rand(1, 3, 64, 64)
    assert_close(sister.encode_image(images), 2 * mini.encode_image(images), atol=1e-5, rtol=0)
    assert_close(sister.encode_text(sister.embed_text(TEXTS)), mini.encode_text(mini.embed_text(TEXTS)))
    assert sister.spec.name == "sister"
    assert sister.spec.sha256 != mini.spec.sha256
