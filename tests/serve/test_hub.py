"""Saved folders: the same classifier again, on the same frozen weights only; a card without a typed number. No network."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from reporting import record
from safetensors import safe_open
from serve_helpers import trained

from ironclip.backbones.registry import license_of
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.data import open_dataset
from ironclip.protocols.experiment import with_test_time
from ironclip.records.verified import sealed
from ironclip.serve.card import hub_of
from ironclip.serve.export import probes
from ironclip.serve.hub import FILES, KEY, LEARNED, load_pretrained, publish, push_to_hub, save_pretrained

RECORDS = [record(clean=81, robust=37), record(clean=81, robust=12, eps=8 / 255)]


@pytest.fixture(scope="module")
def experiment():
    return trained("nap+advmask")


@pytest.fixture
def folder(experiment, tmp_path: Path) -> Path:
    return save_pretrained(experiment, tmp_path / "saved", records=RECORDS)


def test_the_same_classifier_comes_back(experiment, folder: Path) -> None:
    again = load_pretrained(folder, backbone=experiment.backbone)
    images = probes(4, 32)
    with torch.no_grad():
        assert torch.equal(again.classifier(images), experiment.classifier(images))
    assert again.classes == experiment.dataset.classes


def test_a_test_time_method_comes_back(experiment, tmp_path: Path) -> None:
    above = with_test_time(experiment, "ttc", {"steps": 2})
    again = load_pretrained(save_pretrained(above, tmp_path / "saved"), backbone=experiment.backbone)
    images = probes(2, 32)
    assert torch.equal(again.classifier(images), above.classifier(images))
    assert not torch.equal(again.classifier(images), experiment.classifier(images))


def test_only_learned_tensors_and_the_hash_of_the_rest_are_stored(experiment, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    with safe_open(folder / LEARNED, framework="pt") as file:
        assert set(file.keys()) == set(experiment.defense.learned())
        assert file.metadata()["base_sha256"] == "tiny"


def test_other_frozen_weights_are_refused_in_one_line(folder: Path) -> None:
    other = tiny_backbone(layers=1, seed=1)
    object.__setattr__(other.spec, "sha256", "another")
    with pytest.raises(CheckpointError, match="learned on a backbone with sha256 tiny, but this one has another") as caught:
        load_pretrained(folder, backbone=other)
    assert "\n" not in str(caught.value)


def test_no_path_of_this_machine_is_written(experiment, tmp_path: Path) -> None:
    config = experiment.config.model_copy(
        update={"dataset": "/home/me/photos", "weights": "/home/me/w.pt", "classes": "/home/me/c.txt"}
    )
    typed = record(command="ironclip evaluate /home/me/runs/last --data ~/me/photos --limit 5")
    folder = save_pretrained(type(experiment)(**{**vars(experiment), "config": config}), tmp_path / "saved", records=[typed])
    for name in FILES:
        assert b"me/" not in (folder / name).read_bytes()
    assert "ironclip evaluate last --data photos --limit 5" in (folder / "README.md").read_text()


def test_the_card_says_what_was_and_what_was_not_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    head = card.split("---")[1]
    assert "library_name: ironclip" in head
    for words in (
        "81.0 [72.2, 87.5]", "37.0 [28.2, 46.8]", "12.0 [7.0, 19.8]",  # Wilson intervals of 81, 37 and 12 of 100
        "linf 4/255", "linf 8/255", "1 image a class", "Not run: apgd-ce, apgd-t, fab-t, square",
        "No adaptive attack", "no l2", "sha256 `tiny`", "not known to ironclip", "load_classifier",
    ):  # fmt: skip
        assert words in card, words


def test_a_card_without_records_claims_nothing(experiment, tmp_path: Path) -> None:
    card = (save_pretrained(experiment, tmp_path / "saved") / "README.md").read_text()
    assert "Nothing yet." in card
    assert "nothing is known about its robustness" in card


@pytest.mark.parametrize(
    ("backbone", "known"),
    [
        ("mini", "research use"),
        ("ViT-B-32/openai", "MIT"),
        ("ViT-B-32/laion2b_e16", "MIT"),
        ("ViT-B-32/metaclip_400m", "NC"),
        ("hf-hub:a/openai", "not known"),
        ("hf-hub:chs20/fare2-clip", "MIT; tuned from ViT-L-14/openai: MIT"),
        ("tecoa-vitb32-eps4", "not stated by its authors; tuned from"),
    ],
)
def test_licences_are_known_or_said_to_be_unknown(backbone: str, known: str) -> None:
    assert known in license_of(backbone)


@pytest.mark.parametrize(
    ("backbone", "hub"),
    [
        ("mini", ""),
        ("ViT-B-32/openai", "timm/vit_base_patch32_clip_224.openai"),
        ("tecoa-vitb32-eps4", "timm/vit_base_patch32_clip_224.openai"),
        ("fare-vitl14-eps4", "chs20/fare4-clip"),
        ("hf-hub:org/name", "org/name"),
        ("ViT-B-32", ""),
    ],
)
def test_a_card_names_the_hub_repository_below_it_for_every_source(backbone: str, hub: str) -> None:
    assert hub_of(backbone) == hub


def test_other_classes_cannot_be_scored(experiment, folder: Path) -> None:
    shapes = open_dataset("shapes")
    loaded = load_pretrained(folder, backbone=experiment.backbone)
    assert loaded.on(shapes, "shapes").dataset is shapes
    with pytest.raises(UsageError, match="this classifier knows"):
        loaded.on(shapes.changed(classes=tuple(reversed(shapes.classes))), "shapes")


@pytest.mark.parametrize(
    ("name", "content"), [(KEY, b"{"), (KEY, b'{"facts": {}}'), (LEARNED, b"short")], ids=["no json", "no facts", "no tensors"]
)
def test_damaged_files_give_one_line(experiment, folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        load_pretrained(folder, backbone=experiment.backbone)
    assert "\n" not in str(caught.value)


def test_files_of_two_models_do_not_mix(experiment, folder: Path) -> None:
    saved = json.loads((folder / KEY).read_text())
    saved["facts"]["classes"].reverse()
    (folder / KEY).write_text(json.dumps(sealed(saved)))
    with pytest.raises(CheckpointError, match="of different models"):
        load_pretrained(folder, backbone=experiment.backbone)


@pytest.mark.parametrize("seal", [False, None], ids=["of another content", "taken away"])
def test_what_a_saved_folder_says_of_itself_is_under_a_checksum(experiment, folder: Path, seal: bool | None) -> None:
    saved = json.loads((folder / KEY).read_text())
    saved["facts"]["method"] = "another"
    if seal is None:
        del saved["sha256"]
    (folder / KEY).write_text(json.dumps(saved))
    with pytest.raises(CheckpointError, match=r"is not to be believed.*sha256.*ironclip save"):
        load_pretrained(folder, backbone=experiment.backbone)


def test_a_share_that_its_counts_contradict_is_refused(experiment, folder: Path) -> None:
    saved = json.loads((folder / KEY).read_text())
    assert saved["facts"]["measured"]
    for change in ({"value": 1.0}, {"value": -0.5}, {"count": saved["facts"]["measured"][0]["robust"]["of"] + 1}):
        edited = json.loads(json.dumps(saved))
        edited["facts"]["measured"][0]["robust"] |= change
        (folder / KEY).write_text(json.dumps(sealed(edited)))
        with pytest.raises(CheckpointError, match="damaged or of another version"):
            load_pretrained(folder, backbone=experiment.backbone)


def test_a_hub_id_is_fetched_with_its_three_files_only(experiment, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot_download(repository, **given):
        asked.update(given, repository=repository)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    loaded = load_pretrained("hf-hub:org/name", backbone=experiment.backbone, revision="v1")
    assert loaded.classes == experiment.dataset.classes
    assert asked == {"repository": "org/name", "revision": "v1", "allow_patterns": list(FILES)}


class Lost(Exception):
    """As a client of the network raises: no kind of OSError."""


@pytest.mark.parametrize("error", [LocalEntryNotFoundError("no connection\nat all"), HFValidationError("bad name"), Lost("away")])
def test_a_hub_that_refuses_gives_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **given):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match="the hub does not give it") as caught:
        load_pretrained("org/name")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["nowhere", "a/b/c", "./a"])
def test_neither_a_folder_nor_a_hub_id(target: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder, and no hub id"):
        load_pretrained(target)


def test_a_push_uploads_the_saved_files_private_by_default(experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Api:
        def create_repo(self, repository, **given):
            calls.append(("create", repository, given))
            return f"https://hub/{repository}"

        def upload_folder(self, *, folder_path, repo_id, allow_patterns, commit_message):
            calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir()), allow_patterns))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert publish(experiment, "org/name", records=RECORDS) == "https://hub/org/name"
    assert calls == [
        ("create", "org/name", {"private": True, "exist_ok": True}),
        ("upload", "org/name", sorted(FILES), list(FILES)),
    ]


@pytest.mark.parametrize("error", [OSError, Lost])
def test_a_push_that_is_refused_gives_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def create_repo(*args, **given):
        raise error("no token\nsomewhere")

    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(create_repo=create_repo))
    with pytest.raises(CheckpointError, match="the hub refuses: no token; log in"):
        push_to_hub(folder, "org/name")
    with pytest.raises(CheckpointError, match="is no saved classifier"):
        push_to_hub(folder.parent, "org/name")
