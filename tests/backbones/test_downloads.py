"""Weights by name from the hub: robust checkpoints, transformers' models in shards, offline words, damaged cache entries."""

import huggingface_hub
import open_clip
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn
from weight_files import NOTE, VIT, open_clip_folder, tiny_clip, transformers_folder

from ironclip.backbones import load
from ironclip.backbones.downloads import reachable
from ironclip.backbones.registry import MILLIONS, ROBUST, license_of, list_backbones
from ironclip.backbones.robust import Robust
from ironclip.core.errors import CheckpointError


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_clip()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Serves the folders below it, ORG/NAME, and counts what was asked for."""
    asked: list[str] = []

    def download(repository: str, filename: str, **options: object) -> str:
        asked.append(filename)
        path = tmp_path / repository / filename
        if not path.is_file():
            raise EntryNotFoundError(f"no {filename} in {repository}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("ironclip.backbones.downloads.reachable", lambda host: True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return asked


def test_a_transformers_model_in_shards_is_fetched_whole(model, tmp_path, hub):
    transformers_folder(tmp_path / "org" / "clip", model, shards=3)
    backbone = load("hf-hub:org/clip")
    assert (backbone.spec.name, backbone.spec.activation) == ("hf-hub:org/clip", "gelu")
    assert len([name for name in hub if name.startswith("model-")]) == 3


def test_robust_names_download_what_their_authors_offer(model, tmp_path, hub, monkeypatch):
    monkeypatch.delenv("IRONCLIP_WEIGHTS", raising=False)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", VIT)
    monkeypatch.setitem(ROBUST, "fare-tiny-eps4", Robust("Tiny", "Tiny/openai", "fare.pt", "us", "org/fare4"))
    open_clip_folder(tmp_path / "org" / "fare4", model, quick_gelu="TRUE")
    backbone = load("fare-tiny-eps4")
    assert (backbone.spec.name, backbone.spec.activation) == ("fare-tiny-eps4", "quick_gelu")
    open_clip_folder(tmp_path / "org" / "fare4", model, quick_gelu="FALSE")
    with pytest.raises(CheckpointError, match="was trained with gelu"):
        load("fare-tiny-eps4")
    (tmp_path / "org" / "sim").mkdir()
    torch.save(model.visual.state_dict(), tmp_path / "org" / "sim" / "simclip4.pt")
    base = open_clip_folder(tmp_path / "base", model)
    monkeypatch.setitem(ROBUST, "simclip-tiny-eps4", Robust("Tiny", str(base), "simclip4.pt", "us", "org/sim", "simclip4.pt"))
    assert load("simclip-tiny-eps4").spec.name == "simclip-tiny-eps4"


def test_another_programs_model_is_refused_before_its_weights_are_fetched(model, tmp_path, hub):
    open_clip_folder(tmp_path / "zw" / "delta", model, text_cfg={**VIT["text_cfg"], "vocab_path": "vocab.txt"})
    with pytest.raises(CheckpointError, match=r"sets text_cfg\.vocab_path"):
        load("hf-hub:zw/delta")
    assert hub == ["open_clip_config.json"]


def test_a_damaged_cache_entry_says_which_file_to_delete(model, tmp_path, hub):
    folder = open_clip_folder(tmp_path / "org" / "clip", model)
    file = folder / "open_clip_pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=rf"damaged .*; delete {file} and fetch it again"):
        load("hf-hub:org/clip")
    (folder / "open_clip_config.json").write_text('{"model_cfg": ')
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json is damaged: .*; delete it and fetch it again"):
        load("hf-hub:org/clip")
    link = tmp_path / "cache" / "models--org--clip" / "snapshots" / "1" / "open_clip_config.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="points to a file that is gone; delete the link and fetch it again"):
        load("hf-hub:org/clip")


def test_offline_messages_name_repository_file_and_cache(tmp_path, hub, monkeypatch):
    def offline(repository: str, filename: str, **options: object) -> str:
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr("ironclip.backbones.downloads.reachable", lambda host: False)
    with pytest.raises(CheckpointError, match=rf"put open_clip_config\.json of org/clip into {tmp_path / 'cache'}"):
        load("hf-hub:org/clip")


@pytest.mark.parametrize(("proxies", "worth"), [({}, False), ({"no": "localhost"}, False), ({"https": "http://proxy"}, True)])
def test_no_proxy_alone_is_no_connection(monkeypatch, proxies, worth):
    def lookup(*args: object) -> None:
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    monkeypatch.setattr("urllib.request.getproxies", lambda: proxies)
    assert reachable("huggingface.co") is worth


def test_every_robust_name_has_a_licence_a_size_and_a_place():
    entries = {entry.name: entry for entry in list_backbones()}
    for name, robust in ROBUST.items():
        entry = entries[name]
        assert robust.architecture in open_clip.list_models()
        assert robust.hub or robust.file or "weights=FILE" in entry.weights
        assert entry.license
        assert entry.size, robust.architecture
        assert license_of(name).startswith(robust.license or "not stated")
    hubs = [robust.hub + robust.hub_file for robust in ROBUST.values() if robust.hub]
    assert len(set(hubs)) == len(hubs)


@pytest.mark.slow
def test_the_sizes_are_those_of_the_architectures():
    for name, millions in MILLIONS.items():
        config = open_clip.get_model_config(name)
        custom = config.pop("custom_text", False)
        with torch.device("meta"):
            made = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config)
        assert abs(sum(p.numel() for p in made.parameters()) / 1e6 - millions) < 0.06, name


def test_inner_widths_that_no_ratio_gives_exactly_are_kept(tmp_path):
    from ironclip.backbones.foreign import configuration

    wide = {**NOTE["vision_config"], "hidden_size": 1408, "intermediate_size": 6144, "num_attention_heads": 16}
    config, _, _ = configuration(tmp_path, {**NOTE, "vision_config": wide})
    for width, inner in ((1408, 6144), (1664, 8192), (1280, 5120), (1152, 4304)):
        ratio = configuration(tmp_path, {**NOTE, "vision_config": {**wide, "hidden_size": width, "intermediate_size": inner}})[0]
        assert int(width * ratio["vision_cfg"]["mlp_ratio"]) == inner
    assert config["vision_cfg"]["head_width"] == 88
