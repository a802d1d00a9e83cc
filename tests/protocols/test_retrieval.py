"""Retrieval: recall counted by hand, the towers of the defence, captions from folders, and attacks that lower it."""

import json
import zipfile

import pytest
import torch
from PIL import Image

from ironclip.backbones import assemble
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import DataError, UsageError
from ironclip.core.types import Adaptation
from ironclip.data import open_dataset
from ironclip.data.captions import captioned_folder, captions_of
from ironclip.protocols.retrieval import DefendedTowers, recalls, retrieval


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


def brighter(images):
    return (images * 0.5 + 0.5).clamp(0, 1)


def test_recall_is_counted_from_the_order_of_the_answers():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3]])
    relevant = torch.tensor([[True, False, False], [False, False, True]])
    found = recalls(similarity, relevant)
    assert [found[f"image to text at {top}"].count for top in (1, 5, 10)] == [1, 2, 2]
    assert found["text to image at 1"].of == 3
    relevant[1, 1] = True  # the better of two right answers counts; an image with two captions answers both
    assert recalls(similarity, relevant)["image to text at 1"].count == 1
    assert recalls(similarity, relevant)["text to image at 1"].count == 3


def test_a_wrong_answer_that_ties_stands_first():
    assert recalls(torch.zeros(2, 2), torch.eye(2, dtype=torch.bool))["image to text at 1"].count == 0


def test_the_towers_are_those_of_the_defence(backbone):
    images = torch.rand(2, 3, backbone.spec.resolution, backbone.spec.resolution, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        defended = DefendedTowers(assemble(backbone, ("a", "b"), Adaptation(pixels=(brighter,))), "mine")
        assert defended.encode_image(images).allclose(backbone.encode_image(brighter(images)))
        tokens = backbone.embed_text(["a red circle"])
        assert defended.encode_text(tokens).equal(backbone.encode_text(tokens))
        plain = assemble(backbone, ("a", "b"))
    assert DefendedTowers(plain, "zero_shot").encode_image(images).equal(backbone.encode_image(images))
    with pytest.raises(UsageError, match="apt changes class prompts or the head alone"):
        DefendedTowers(plain, "apt")


def test_edits_of_the_text_tower_take_part(backbone):
    def shifted(layer, tokens):
        return tokens + 0.1 * torch.arange(tokens.shape[-1])

    with torch.no_grad():
        towers = DefendedTowers(assemble(backbone, ("a", "b"), Adaptation(text_edits=(shifted,))), "mine")
        tokens = backbone.embed_text(["a red circle"])
        assert not towers.encode_text(tokens).allclose(backbone.encode_text(tokens))


def test_the_attacks_lower_what_their_loss_says(backbone):
    captioned = captions_of(open_dataset("shapes"), "test")
    with torch.no_grad():
        towers = DefendedTowers(assemble(backbone, ("a", "b")))
    clean, pgd, both = retrieval(towers, captioned, eps=16 / 255, limit=16, steps=5, batch_size=6)
    assert [each.attack for each in (clean, pgd, both)] == ["clean", "pgd on images", "coattack on both"]
    assert {part.of for part in clean.recall.values()} <= {16, len(set(sum(captioned.texts.values(), ())))} | set(range(1, 17))
    total = [sum(each.recall[f"image to text at {top}"].count for top in (1, 5, 10)) for each in (clean, pgd)]
    assert total[1] < total[0]
    alone = retrieval(towers, captioned, eps=16 / 255, limit=16, steps=5, batch_size=16)
    assert [each.recall for each in alone] == [each.recall for each in (clean, pgd, both)]


def folder(path, items):
    path.mkdir()
    with zipfile.ZipFile(path / "images.zip", "w") as archive:
        for number in range(3):
            Image.new("RGB", (40, 40), (80 * number, 0, 90)).save(path / "x.png")
            archive.write(path / "x.png", f"{number}.png")
    (path / "x.png").unlink()
    (path / "index.json").write_text(json.dumps({"dataset": "mine", "items": items}))
    return path


def test_a_folder_gives_its_pictures_several_captions(tmp_path, backbone):
    items = [{"file": f"{number}.png", "captions": [f"image {number} ", f"a thing, {number}"]} for number in range(3)]
    found = captioned_folder(folder(tmp_path / "a", items))
    assert found is not None
    assert found.texts[1] == ("image 1", "a thing, 1")
    with torch.no_grad():
        towers = DefendedTowers(assemble(backbone, ("a", "b")))
    clean = retrieval(towers, found, steps=1)[0]
    assert clean.recall["text to image at 1"].of == 6


def test_a_folder_is_found_by_its_name_below_a_data_root(tmp_path, monkeypatch):
    folder(tmp_path / "pairs", [{"file": "0.png", "captions": ["x"]}, {"file": "1.png", "captions": ["y"]}])
    monkeypatch.setenv("IRONCLIP_DATA", str(tmp_path))
    found = captioned_folder("pairs")
    assert found is not None
    assert found.texts == {0: ("x",), 1: ("y",)}


@pytest.mark.parametrize("item", [{"file": "0.png", "captions": []}, {"captions": ["x"]}, {"file": "0.png", "captions": [3]}, 7])
def test_a_folder_without_texts_or_files_is_one_line(tmp_path, item):
    with pytest.raises(DataError, match="item 1"):
        captioned_folder(folder(tmp_path / "a", [{"file": "0.png", "captions": ["x"]}, item]))


def test_other_folders_are_none_of_it(tmp_path):
    assert captioned_folder(tmp_path) is None
    assert captioned_folder(folder(tmp_path / "a", [{"file": "0.png", "label": 0}])) is None


def test_pictures_without_captions_are_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match="images have no caption"):
        captions_of(open_dataset(tmp_path), "test")
