"""Every format in which weights arrive, written here in miniature, loads to the same numbers; every wrong file says why."""

import json
import re
import zipfile
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from loaded import ARCHITECTURES, RESNET, VIT, assert_same, base_note, write
from open_clip import pretrained
from safetensors.torch import save_file
from torch import nn
from weight_files import openai_archive

from ironclip.backbones import list_backbones, load
from ironclip.backbones.checkpoints import read_checkpoint
from ironclip.backbones.registry import ROBUST, tag_activation
from ironclip.backbones.wrapping import build
from ironclip.core.errors import CheckpointError, IronclipError, UsageError

pytestmark = pytest.mark.usefixtures("architectures")


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
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("a\nb.png", "no weights")
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
        ("Tiny@{0}/photo.jpg", "is not a weights file: expected safetensors or a torch file .* it is a JPEG image$"),
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
        (
            "Tiny@{0}/photos.zip",
            r"it is a zip archive of 'a\\nb.png' and the like; unpack it, and name the file with the weights$",
        ),
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
