"""A run on local weights: asked once, opened again from anywhere, found after a move, refused on another file."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from weight_files import TINY

import ironclip
from ironclip.backbones.wrapping import build
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.protocols.few_shot import open_run
from ironclip.protocols.resolve import open_target, resolve


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights of an architecture that states no activation; it is the current one."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", TINY)
    monkeypatch.delenv("IRONCLIP_WEIGHTS", raising=False)
    torch.manual_seed(0)
    model = build(TINY, "gelu")
    (tmp_path / "files").mkdir()
    save_file(model.state_dict(), tmp_path / "files" / "whole.safetensors")
    torch.save({"vision_encoder_state_dict": model.visual.state_dict()}, tmp_path / "files" / "tower.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(**given: object):
    from ironclip.protocols.few_shot import train

    return train(resolve("zero_shot", "shapes", given=given))


def test_paths_become_absolute_with_their_hash_and_the_activation_is_asked_once(place, monkeypatch):
    with pytest.raises(CheckpointError, match=r"does not say whether .* say --activation quick_gelu"):
        trained(backbone="Tiny", weights="files/whole.safetensors")
    run = trained(backbone="Tiny", weights="files/whole.safetensors", activation="gelu")
    file = place / "files" / "whole.safetensors"
    assert run.config["weights"] == str(file)
    assert list(run.config["files"]) == [str(file)]
    assert len(run.config["files"][str(file)]) == 64
    where = run.path.absolute()
    monkeypatch.chdir(place / "files")
    assert open_run(where)[1].backbone.spec.activation == "gelu"


@pytest.mark.parametrize(
    "given",
    [
        {"backbone": "Tiny@files/whole.safetensors", "activation": "gelu"},
        {"backbone": "Tiny", "weights": "files/tower.pt", "base": "Tiny-gelu@files/whole.safetensors"},
    ],
)
def test_a_run_finds_its_files_again_by_hash(place, monkeypatch, given):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-gelu", TINY)
    if "base" in given:  # a base that says its activation
        (place / "files" / "whole.safetensors").unlink()
        save_file(build(TINY, "gelu").state_dict(), place / "files" / "whole.safetensors", metadata={"activation": "gelu"})
    run = trained(**given)
    elsewhere = place / "moved"
    (place / "files").rename(elsewhere)
    for k, file in enumerate(elsewhere.iterdir()):
        file.rename(file.with_name(f"renamed{k}{file.suffix}"))
        file.with_name(f"another{file.suffix}").write_bytes(b"no weights of this run")
    with pytest.raises(CheckpointError, match=r"of this run \(sha256 .*\) are no longer at .* put them into .*IRONCLIP_WEIGHTS"):
        open_run(run.path)
    monkeypatch.setenv("IRONCLIP_WEIGHTS", str(elsewhere))
    assert open_run(run.path)[1].backbone.spec.activation == "gelu"


def test_weights_of_a_run_may_be_named_where_they_lie_now_and_nothing_else(place):
    run = trained(backbone="Tiny@files/whole.safetensors", activation="gelu")
    file = place / "files" / "whole.safetensors"
    moved = file.rename(place / "files" / "other.safetensors")
    _, experiment = open_target(str(run.path), None, device="cpu", frozen={"weights": str(moved)})
    assert experiment.backbone.spec.activation == "gelu"
    with pytest.raises(CheckpointError, match=r"tower\.pt is not the file whole\.safetensors of this run"):
        open_target(str(run.path), None, device="cpu", frozen={"weights": "files/tower.pt"})
    with pytest.raises(UsageError, match="a run knows the activation of its backbone; leave out --activation"):
        open_target(str(run.path), None, device="cpu", frozen={"activation": "gelu"})
    save_file({name: tensor + 1 for name, tensor in build(TINY, "gelu").state_dict().items()}, file)
    with pytest.raises(CheckpointError, match="is another file than the one this run was made with"):
        open_run(run.path)


def test_a_run_made_in_python_on_local_weights_is_opened_again(place):
    backbone = ironclip.load("Tiny", weights="files/whole.safetensors", activation="gelu")
    model = ironclip.zero_shot(backbone, ironclip.dataset("shapes", shots=1))
    again = ironclip.load_classifier(model.run.path)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(again(images), model(images))
    assert again.config.activation == "gelu"


def test_a_shared_folder_holds_no_path_and_needs_the_file_from_its_user(place):
    backbone = ironclip.load("Tiny@files/whole.safetensors", activation="gelu")
    model = ironclip.zero_shot(backbone, ironclip.dataset("shapes", shots=1))
    folder = model.save_pretrained("shared")
    for file in folder.iterdir():
        assert str(place).encode() not in file.read_bytes(), file
    with pytest.raises(CheckpointError, match=r"'Tiny@whole\.safetensors', a file or a repository, which is not its to choose"):
        ironclip.Model.from_pretrained(folder)
    assert ironclip.Model.from_pretrained(folder, backbone=backbone).classes == model.classes


def test_backbones_of_the_package_and_tags_name_runs_as_before():
    plain = resolve("zero_shot", "shapes", given={"backbone": "mini"}).as_dict()
    assert not {"files", "activation", "base"} & plain.keys()
    Path("mini").mkdir()
    assert resolve("zero_shot", "shapes", given={"backbone": "mini"}).as_dict() == plain
