"""Every format in which weights arrive, written here in miniature, loads to the same numbers; every wrong file says why."""

import hashlib
import json
import re
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from ironclip.backbones import list_backbones, load
from ironclip.backbones.checkpoints import read_checkpoint
from ironclip.backbones.probe import make_probe
from ironclip.backbones.registry import ROBUST, tag_activation
from ironclip.backbones.wrapping import build, tokenizer_for
from ironclip.core.errors import CheckpointError, IronclipError, UsageError

VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
OTHER = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "patch_size": 16}}
RESNET = {**VIT, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
ARCHITECTURES = {"Tiny": VIT, "Tiny-quickgelu": {**VIT, "quick_gelu": True}, "TinyPatch16": OTHER, "TinyRN": RESNET}
TEXTS = ["a photo of a cat.", "a dog"]


@pytest.fixture(scope="module", autouse=True)
def architectures():
    """Architectures of open_clip's own classes that take milliseconds, with one published tag."""
    patch = pytest.MonkeyPatch()
    for name, config in ARCHITECTURES.items():
        patch.setitem(open_clip.factory._MODEL_CONFIGS, name, config)
        tag = {"mean": (0.4, 0.4, 0.4), "std": (0.3, 0.3, 0.3), "hf_hub": f"somebody/{name}/"}
        patch.setitem(pretrained._PRETRAINED, name, {"openai": {**tag, "quick_gelu": True}, "laion2b": tag})
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model() -> open_clip.CLIP:
    torch.manual_seed(0)
    return shaken(build(VIT, "quick_gelu"))


def shaken(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter) * parameter.abs().mean().clamp(min=0.05)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def resnet() -> open_clip.CLIP:
    torch.manual_seed(0)
    return shaken(build(RESNET, "quick_gelu"))


@pytest.fixture
def hub(monkeypatch):
    """Serves local files instead of the hub."""
    files: dict[tuple[str, str], Path] = {}

    def download(repository: str, filename: str, **options: object) -> str:
        if (repository, filename) not in files:
            raise huggingface_hub.errors.EntryNotFoundError(f"no {filename} in {repository}")
        return str(files[repository, filename])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("ironclip.backbones.downloads.reachable", lambda host: True)
    return files


def write(path: Path, value: object) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in value.items()}, path)
    else:
        torch.save(value, path)
    return path


def assert_same(backbone, model, tolerance: float = 1e-5) -> None:
    images = torch.rand(2, 3, backbone.spec.resolution, backbone.spec.resolution, generator=torch.Generator().manual_seed(0))
    normal = (images - torch.tensor(backbone.spec.mean).view(3, 1, 1)) / torch.tensor(backbone.spec.std).view(3, 1, 1)
    assert_close(backbone.encode_image(images), model.encode_image(normal), atol=tolerance, rtol=0)
    words = model.encode_text(tokenizer_for("", VIT)(TEXTS))
    assert_close(backbone.encode_text(backbone.embed_text(TEXTS)), words, atol=tolerance, rtol=0)


# --- the package's own -------------------------------------------------------------------------------------------------------


def test_mini_loads_frozen_in_evaluation_mode_and_float32():
    state = torch.get_rng_state()
    backbone = load("mini")
    assert torch.equal(torch.get_rng_state(), state), "loading leaves the random state of the caller alone"
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    assert (backbone.spec.resolution, backbone.spec.context_length) == (64, 32)
    assert len(backbone.spec.sha256) == 64
    assert load("mini", precision="float64").dtype == torch.float64
    backbone.train()
    assert not backbone.training


def test_mini_is_the_same_by_name_and_by_file():
    import ironclip.backbones

    file = Path(ironclip.backbones.__file__).parent / "weights" / "mini.safetensors"
    assert load(str(file)).spec == load("mini").spec


def test_the_activation_of_mini_cannot_be_changed():
    with pytest.raises(
        CheckpointError, match=r"mini was trained with gelu \(mini\.json\); activation='quick_gelu' would silently"
    ):
        load("mini", activation="quick_gelu")


def test_the_list_of_backbones_has_every_robust_checkpoint_and_its_file():
    entries = {entry.name: entry for entry in list_backbones()}
    assert {"mini", "mini-robust", "ViT-B-32/openai"} <= entries.keys()
    for name, robust in ROBUST.items():
        assert robust.file in entries[name].weights
        assert robust.architecture in open_clip.list_models()


# --- formats ------------------------------------------------------------------------------------------------------------------


def openai_archive(model: open_clip.CLIP, path: Path) -> Path:
    """A TorchScript archive with half-precision weights and the three numbers, as OpenAI publishes them."""

    class Archived(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, child in model.named_children():
                setattr(self, name, child)
            for name in ("positional_embedding", "text_projection", "logit_scale"):
                setattr(self, name, getattr(model, name))
            for name in ("input_resolution", "context_length", "vocab_size"):
                self.register_buffer(name, torch.tensor(1))

        def forward(self, image: Tensor) -> Tensor:
            return self.visual(image) + 0 * (self.logit_scale + self.positional_embedding.sum() + self.text_projection.sum())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, and tracing it warns at every shape
        archive = torch.jit.trace(Archived().eval(), torch.zeros(1, 3, model.visual.image_size[0], model.visual.image_size[0]))
        torch.jit.save(archive, path)
    return path


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


def test_a_resnet_image_tower_loads_without_batch_counters(resnet, tmp_path):
    base = write(tmp_path / "base.pt", resnet.state_dict())
    tower = {name: tensor for name, tensor in resnet.visual.state_dict().items() if not name.endswith("num_batches_tracked")}
    backbone = load(
        "TinyRN", weights=write(tmp_path / "rn.pth.tar", {"vision_encoder_state_dict": tower}), base=str(base_note(base))
    )
    assert_same(backbone, resnet)


def base_note(path: Path, config: dict = RESNET, **more: object) -> Path:
    """A JSON description beside a weights file."""
    note = {
        "name": path.stem,
        "architecture": {**config, "quick_gelu": True},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps({**note, **more}))
    return path


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


# --- tags and hub -------------------------------------------------------------------------------------------------------------


def test_tags_take_their_activation_and_statistics_from_the_table(model, tmp_path, hub):
    hub["somebody/Tiny", "open_clip_model.safetensors"] = write(tmp_path / "open_clip_model.safetensors", model.state_dict())
    backbone = load("Tiny/openai")
    assert_same(backbone, model)
    assert backbone.spec.mean == (0.4, 0.4, 0.4)
    assert load("Tiny", weights="openai").spec == backbone.spec
    assert load("Tiny/laion2b").spec.activation == "gelu"
    with pytest.raises(CheckpointError, match=r"Tiny/laion2b was trained with gelu \(open_clip's list of tags\)"):
        load("Tiny/laion2b", activation="quick_gelu")


def test_a_tag_on_which_the_tables_disagree_needs_a_word(model, tmp_path, hub, monkeypatch):
    hub["somebody/Tiny", "open_clip_model.safetensors"] = write(tmp_path / "open_clip_model.safetensors", model.state_dict())
    monkeypatch.setitem(pretrained._PRETRAINED["Tiny"]["laion2b"], "quick_gelu", True)
    with pytest.raises(CheckpointError, match="our table says Tiny/laion2b was trained with gelu, open_clip says quick_gelu"):
        load("Tiny/laion2b")
    assert load("Tiny/laion2b", activation="quick_gelu").spec.activation == "quick_gelu"


def test_our_table_of_activations_agrees_with_open_clips():
    for architecture, tags in pretrained._PRETRAINED.items():
        if architecture not in ARCHITECTURES:
            for tag, known in tags.items():
                expected = "quick_gelu" if known.get("quick_gelu") else "gelu"
                assert tag_activation(architecture, tag) == expected, f"{architecture}/{tag}"


def test_hub_models_bring_their_configuration(model, tmp_path, hub):
    note = tmp_path / "open_clip_config.json"
    note.write_text(
        json.dumps({"model_cfg": {**VIT, "quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.2] * 3}})
    )
    hub["org/clip", "open_clip_config.json"] = note
    hub["org/clip", "open_clip_pytorch_model.bin"] = write(tmp_path / "open_clip_pytorch_model.bin", model.state_dict())
    backbone = load("hf-hub:org/clip")
    assert_same(backbone, model)
    assert (backbone.spec.mean, backbone.spec.name) == ((0.5, 0.5, 0.5), "hf-hub:org/clip")
    with pytest.raises(CheckpointError, match=r"its open_clip_config\.json\); activation='gelu'"):
        load("hf-hub:org/clip", activation="gelu")
    with pytest.raises(
        CheckpointError, match=r"hf-hub:org/none could not be downloaded \(open_clip_config\.json of org/none: no open_clip"
    ):
        load("hf-hub:org/none")


def test_without_a_connection_one_line_says_what_to_do(monkeypatch):
    def offline(repository: str, filename: str, *, local_files_only: bool) -> str:
        assert local_files_only
        raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr("ironclip.backbones.downloads.reachable", lambda host: False)
    with pytest.raises(
        CheckpointError, match=r"^ViT-B-32/openai is not in the local cache and there is no connection to [\w.]+; connect"
    ):
        load("ViT-B-32/openai")


# --- wrong names and files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    state = model.state_dict()
    write(folder / "clip.safetensors", state)
    write(folder / "clip.pt", state)
    for name in ("clip.safetensors", "clip.pt"):
        content = (folder / name).read_bytes()
        (folder / f"half-{name}").write_bytes(content[: len(content) // 2])
    archive = openai_archive(model, folder / "archive.pt").read_bytes()
    (folder / "half-archive.pt").write_bytes(archive[: len(archive) // 2])
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (folder / "empty.pt").write_bytes(b"")
    write(folder / "pickled.pt", {"state_dict": state, "config": Path("x")})
    write(folder / "list.pt", [1, 2])
    write(folder / "linear.pt", nn.Linear(2, 2).state_dict())
    write(folder / "nan.pt", {**state, "visual.proj": state["visual.proj"] * torch.nan})
    write(folder / "lacking.pt", {name: tensor for name, tensor in state.items() if "ln_post" not in name})
    write(folder / "more.pt", {**state, "visual.extra": torch.zeros(1)})
    write(folder / "words.pt", {"text_model.final_layer_norm.weight": torch.zeros(1)})
    write(folder / "quantised.pt", {**state, "visual.proj": torch.zeros(64, 32, dtype=torch.int8)})
    (folder / "page.pt").write_text("\n<!DOCTYPE html><html><body>Sign in to download</body></html>")
    (folder / "config.json").write_text("{}")
    (folder / "lfs.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (folder / "folder").mkdir()
    save_file(state, folder / "relu.safetensors", metadata={"activation": "relu"})
    write(folder / "tower.pt", model.visual.state_dict())
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Tiny@{0}/none.pt", r"no weights file at .*none\.pt$"),
        (
            "Tiny@{0}/folder",
            r"folder is a folder without weights of a known name, such as open_clip_model\.safetensors .* it is empty$",
        ),
        ("Tiny@{0}/photo.jpg", "is not a weights file: expected safetensors or a torch file .* it is a JPEG picture$"),
        ("Tiny@{0}/empty.pt", "it is empty$"),
        ("Tiny@{0}/half-clip.safetensors", "is a damaged or truncated safetensors file: "),
        ("Tiny@{0}/half-clip.pt", "is a damaged or truncated torch file: "),
        ("Tiny@{0}/half-archive.pt", "is a damaged or truncated torch file: "),
        ("Tiny@{0}/pickled.pt", "holds Python objects beside tensors, which are never unpickled"),
        ("Tiny@{0}/list.pt", "holds a list; expected a state dict"),
        ("Tiny@{0}/linear.pt", "holds no CLIP weights: expected names such as visual.conv1.weight; got weight, bias"),
        ("Tiny@{0}/nan.pt", "holds NaN or infinity in visual.proj"),
        ("Tiny@{0}/words.pt", "holds no CLIP weights: .* got text_model.final_layer_norm.weight$"),
        ("Tiny@{0}/quantised.pt", "holds int8 numbers in visual.proj, as quantised models do"),
        ("Tiny@{0}/page.pt", "it is an HTML or XML page, as a browser saves"),
        ("Tiny@{0}/config.json", "it is JSON; the weights lie in another file"),
        ("Tiny@{0}/lfs.bin", "it is a Git LFS pointer$"),
        ("Tiny@{0}/relu.safetensors", "states the activation 'relu'; expected 'gelu' or 'quick_gelu'"),
        (
            "Tiny-quickgelu@{0}/lacking.pt",
            r"does not fit Tiny-quickgelu: 2 of \d+ tensors are missing, first visual.ln_post.weight; ",
        ),
        ("Tiny-quickgelu@{0}/more.pt", "does not fit Tiny-quickgelu: it has 1 tensors too many, first visual.extra; "),
        (
            "{0}/clip.safetensors",
            "does not say its architecture; its sizes are those of Tiny and Tiny-quickgelu; name it, as in Tiny@",
        ),
        (
            "Tiny@{0}/tower.pt",
            "holds an image tower alone and needs the text tower of Tiny/openai: Tiny/openai is not in the local cache",
        ),
        ("Tiny", r"Tiny is an architecture; say which weights: Tiny/TAG \(tags: openai, laion2b\) or Tiny@FILE$"),
        (
            "tecoa-vitb32-eps4",
            "needs the file vitb32_eps4.pth.tar .*: say --weights FILE .* into the folder .*IRONCLIP_WEIGHTS is not set$",
        ),
    ],
)
def test_a_wrong_file_says_what_was_expected(wrong, name, message, monkeypatch):
    monkeypatch.delenv("IRONCLIP_WEIGHTS", raising=False)
    monkeypatch.setattr("ironclip.backbones.downloads.reachable", lambda host: False)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(name.format(wrong))
    assert "\n" not in str(caught.value)


def test_another_architecture_is_described(wrong):
    expected = (
        r"clip\.safetensors does not fit TinyPatch16: visual\.positional_embedding is \[17, 64\], expected \[5, 64\]; "
        r"the file holds a ViT with patch 8, width 64 and 2 layers$"
    )
    with pytest.raises(CheckpointError, match=expected):
        load(f"TinyPatch16@{wrong}/clip.safetensors", activation="gelu")
    with pytest.raises(
        CheckpointError, match=r"tower\.pt does not fit the image tower of TinyRN: .* the file holds a ViT with patch 8"
    ):
        load(
            "TinyRN",
            weights=wrong / "tower.pt",
            base=str(base_note(write(wrong / "base.pt", build(RESNET, "gelu").state_dict()))),
        )


def test_one_model_has_one_activation(model, wrong):
    path = wrong / "tower.safetensors"
    save_file(model.visual.state_dict(), path, metadata={"activation": "gelu"})
    with pytest.raises(
        CheckpointError, match=r"was trained with gelu \(its metadata\), its base Tiny-quickgelu@.* with quick_gelu"
    ):
        load("Tiny", weights=path, base=f"Tiny-quickgelu@{wrong}/clip.pt")


def test_the_base_must_be_of_the_named_architecture(wrong):
    with pytest.raises(CheckpointError, match=r"clip\.pt does not fit TinyPatch16: "):
        load("TinyPatch16", weights=wrong / "tower.pt", base=f"Tiny-quickgelu@{wrong}/clip.pt")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mimi", {}, "unknown backbone 'mimi'; did you mean 'mini'"),
        ("ViT-B-23/openai", {}, "unknown backbone 'ViT-B-23/openai'; did you mean 'ViT-B-32/openai'"),
        ("ViT-B-32/opnai", {}, "unknown tag of ViT-B-32 'opnai'; did you mean 'openai'"),
        ("ViTB32@clip.pt", {}, "unknown architecture 'ViTB32'"),
        ("mini", {"weights": "x.pt"}, "mini names its weights already"),
        ("ViT-B-32", {"weights": "opnai"}, "unknown tag of ViT-B-32 'opnai'; did you mean 'openai'"),
        ("Tiny/openai", {"weights": "x.pt"}, "Tiny/openai names its weights already"),
        ("mini", {"precision": "bfloat16"}, "float32 or float64; got 'bfloat16'"),
        ("mini", {"activation": "relu"}, "activation is 'gelu' or 'quick_gelu'; got 'relu'"),
        ("mini", {"device": "cupboard"}, "device 'cupboard' cannot be used here"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)


def test_models_without_an_adapter_are_refused():
    coca = open_clip.get_model_config("coca_ViT-B-32")
    with pytest.raises(CheckpointError, match="CoCa models and text towers from transformers have no adapter here"):
        build(coca, "gelu")
    with pytest.raises(CheckpointError, match="open_clip does not take this configuration"):
        build({**VIT, "vision_cfg": {"widht": 3}}, "gelu")
    assert issubclass(CheckpointError, IronclipError)


def test_nothing_but_tensors_is_ever_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"state_dict": {"visual.proj": Harm()}}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="holds Python objects"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()
