import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from ironclip.backbones.loading import load
from ironclip.core.errors import CheckpointError, DataError, RunBusy
from ironclip.data import shapes
from ironclip.pretraining import data as source_of
from ironclip.pretraining import sets
from ironclip.pretraining import steps as steps_of
from ironclip.pretraining import train as recipe
from ironclip.records.learned import load_state
from ironclip.records.lock import locked

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    "quick_gelu": False,
}


def tiny(**changes) -> recipe.PretrainConfig:
    sizes = {"steps": 6, "batch": 12, "report_every": 3, "learning_rate": 1e-2}
    options = {"architecture": TINY, "data": Path("pictures"), "precision": "float32", **sizes}
    return recipe.PretrainConfig(**(options | changes))


def tiny_sources() -> list[source_of.Source]:
    """Dark and bright images with class names, and titled ones of which two share a title."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 60, (20, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.arange(20) % 2
    named = source_of.Source("dark or bright", noise + (labels * 190)[:, None, None, None].byte(), labels, (("night", "day"),))
    titles = (("dusk", "dusk", "dawn", "noon", "lamp"),)
    return [named, source_of.Source("titled", noise[:5], torch.arange(5), titles, ("{}.",), all_names=False)]


def flat(state) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by "kind/name"."""
    kinds = {kind: tensors for kind, tensors in state.items() if isinstance(tensors, dict)}
    return {f"{kind}/{name}": tensor for kind, tensors in kinds.items() for name, tensor in tensors.items()}


def check_of(source: source_of.Source) -> sets.Check:
    return sets.Check("named", source.images, source.labels, source.wordings[0], "a photo of a {}.")


def test_average_is_the_exponential_mean_of_the_weights_and_survives_an_interruption(tmp_path):
    sources = tiny_sources()
    config = tiny(average=0.5, report_every=1, steps=3)
    kept = []
    seen = lambda row: kept.append(flat(load_state(tmp_path / "whole" / recipe.CHECKPOINT)))  # noqa: E731
    whole = recipe.train(config, sources, [check_of(sources[0])], tmp_path / "whole", seen)
    start = recipe.build(config).state_dict()
    for name in (key.removeprefix("average/") for key in kept[0] if key.startswith("average/")):
        mean = start[name]
        for file in kept:
            mean = 0.5 * mean + 0.5 * file[f"model/{name}"]
            torch.testing.assert_close(file[f"average/{name}"], mean)
    written = load_file(whole)
    assert torch.equal(written["visual.proj"], kept[-1]["average/visual.proj"].half())
    recipe.train(config, sources, [], tmp_path / "parts", stop_after=2)
    assert recipe.train(config, sources, [], tmp_path / "parts").read_bytes() == whole.read_bytes()


def test_interrupted_run_ends_bitwise_like_an_unbroken_one(tmp_path):
    sources, rows = tiny_sources(), []
    whole = recipe.train(tiny(), sources, [check_of(sources[0])], tmp_path / "whole", rows.append)
    recipe.train(tiny(), sources, [check_of(sources[0])], tmp_path / "parts", stop_after=4)  # saved at 3, loses one step
    parts = recipe.train(tiny(), sources, [check_of(sources[0])], tmp_path / "parts")
    first, second = (flat(load_state(path.parent / recipe.CHECKPOINT)) for path in (whole, parts))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert whole.read_bytes() == parts.read_bytes()
    logs = [[json.loads(line) for line in (p.parent / recipe.LOG).read_text().splitlines()] for p in (whole, parts)]
    assert [row["step"] for row in logs[0]] == [3, 6] == [row["step"] for row in logs[1]]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]] == [row["loss"] for row in rows]


def test_training_learns_dark_from_bright(tmp_path):
    sources = tiny_sources()
    rows = []
    recipe.train(tiny(steps=30, report_every=30, learning_rate=3e-3), sources[:1], [check_of(sources[0])], tmp_path, rows.append)
    assert rows[-1]["named"] == 1.0


def test_finished_weights_load_as_a_backbone_and_state_their_logits(tmp_path):
    path = recipe.train(tiny(), tiny_sources(), [], tmp_path)
    recipe.files.add_probe(path)
    backbone = load(str(path))
    assert (backbone.spec.resolution, backbone.spec.grid, backbone.spec.activation) == (16, 4, "gelu")
    path.write_bytes(path.read_bytes()[:-2] + b"\0\1")
    with pytest.raises(CheckpointError, match="sha256"):
        load(str(path))


@pytest.mark.parametrize("damage", ["log torn", "log gone", "log behind", "checkpoint cut", "checkpoint edited"])
def test_the_checkpoint_is_the_truth_about_the_log_and_damage_to_it_is_one_line(tmp_path, damage):
    rows = []
    recipe.train(tiny(steps=9), tiny_sources(), [], tmp_path, rows.append, stop_after=7)
    log, checkpoint = tmp_path / recipe.LOG, tmp_path / recipe.CHECKPOINT
    if damage.startswith("log"):
        text = log.read_text()
        log.write_text({"torn": text[:-9], "behind": text.splitlines()[0] + "\n", "gone": ""}[damage[4:]])
        recipe.train(tiny(steps=9), tiny_sources(), [], tmp_path, stop_after=6)  # where nothing new is learned
        assert [json.loads(line) for line in log.read_text().splitlines()] == rows
        recipe.train(tiny(steps=9), tiny_sources(), [], tmp_path, rows.append)
        assert [json.loads(line) for line in log.read_text().splitlines()] == rows
        assert [row["step"] for row in rows] == [3, 6, 9]
        return
    content = bytearray(checkpoint.read_bytes())
    content[-5] ^= 1
    checkpoint.write_bytes(content if damage == "checkpoint edited" else content[:-9])
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        recipe.train(tiny(steps=9), tiny_sources(), [], tmp_path)
    assert "\n" not in str(caught.value)


def test_two_processes_do_not_train_into_one_folder(tmp_path, monkeypatch):
    for what in ("load_sources", "load_checks"):
        monkeypatch.setattr(sets, what, lambda *_: [])
    with locked(tmp_path), pytest.raises(RunBusy, match="is in use by process"):
        recipe.pretrain(tiny(), tmp_path)


def test_other_options_do_not_continue_a_run(tmp_path):
    recipe.train(tiny(), tiny_sources(), [], tmp_path, stop_after=4)
    with pytest.raises(CheckpointError, match="other options"):
        recipe.train(tiny(seed=1), tiny_sources(), [], tmp_path)


def test_adversarial_run_keeps_the_text_tower_and_writes_the_image_tower(tmp_path):
    start = recipe.train(tiny(), tiny_sources(), [], tmp_path / "mini")
    config = tiny(objective="adversarial", init=start)
    path = recipe.train(config, tiny_sources(), [], tmp_path / "robust")
    state, before = load_file(path), load_file(start)
    assert path.name == "mini-robust.safetensors"
    assert state.keys() == {key for key in before if key.startswith("visual.")}
    kept = flat(load_state(tmp_path / "robust" / recipe.CHECKPOINT))
    for key, tensor in before.items():
        assert torch.equal(kept[f"model/{key}"].half(), tensor) == (not key.startswith("visual.")), key
    description = json.loads((path.parent / "mini-robust.json").read_text())
    assert (description["text_tower"], description["eps"]) == ("mini", 4 / 255)
    with pytest.raises(CheckpointError, match="as init"):
        recipe.build(tiny(objective="adversarial"))


def test_inner_attack_stays_in_the_ball_and_raises_the_loss(tmp_path, monkeypatch):
    start = recipe.train(tiny(), tiny_sources(), [], tmp_path)
    config = tiny(objective="adversarial", init=start, eps=8 / 255)
    model = recipe.build(config)
    batch = source_of.make_batch(tiny_sources(), [8, 4], 0, 0)
    images, seen = batch.images / 255, []
    encode = steps_of.encode_pixels
    monkeypatch.setattr(steps_of, "encode_pixels", lambda model, pixels: seen.append(pixels.detach()) or encode(model, pixels))
    tokenizer = recipe.SimpleTokenizer(context_length=32)
    arguments = (model, tokenizer, batch, images, batch.targets, config.steps)
    attacked = recipe.adversarial_loss(config, *arguments, torch.Generator().manual_seed(0))
    unattacked = recipe.adversarial_loss(config.model_copy(update={"eps": 0.0}), *arguments, torch.Generator().manual_seed(0))
    assert attacked > unattacked
    assert 7 / 255 < (seen[2] - images).abs().max() <= 8 / 255 + 1e-6
    assert all(p.grad is None for p in model.parameters())


def test_contrastive_loss_equals_a_slow_loop_over_positives():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    caption = [0, 2, 0, 0, 2]  # captions 1 and 3 have no image
    to_text = sum(-math.log(math.exp(logits[i, c]) / sum(math.exp(v) for v in logits[i])) for i, c in enumerate(caption)) / 5
    to_image = 0.0
    for c in (0, 2):
        positives = [i for i in range(5) if caption[i] == c]
        column = sum(math.exp(v) for v in logits[:, c])
        to_image += sum(-math.log(math.exp(logits[i, c]) / column) for i in positives) / len(positives) / 2
    loss = steps_of.contrastive_loss(logits, F.one_hot(torch.tensor(caption), 4).double())
    assert loss.item() == pytest.approx((to_text + to_image) / 2, abs=1e-12)


def test_own_set_loss_ignores_the_captions_of_other_sets():
    logits = torch.tensor([[1.0, 2.0, 9.0], [5.0, 0.0, 1.0]])
    groups = [(slice(0, 1), torch.tensor([0, 1])), (slice(1, 2), torch.tensor([1, 2]))]
    loss = steps_of.own_set_loss(logits, torch.tensor([1, 2]), groups)
    assert loss.item() == pytest.approx(2 * math.log(1 + math.exp(-1)), abs=1e-6)


def test_truncated_captions_equal_the_full_text_tower():
    model = recipe.build(tiny())
    tokenizer = recipe.SimpleTokenizer(context_length=32)
    captions = ["a dog", "a centered satellite photo of annual crop land."]
    ours = steps_of.encode_captions(model, tokenizer, captions)
    assert torch.allclose(ours, model.encode_text(tokenizer(captions), normalize=True), atol=1e-6)


def test_augmentation_and_mixing_are_pure_and_stay_pictures():
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    first, second = (steps_of.augment(images, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert 0 <= first.min() < first.max() <= 1
    targets = torch.eye(6)
    mixed, shares = steps_of.cutmix(first, targets, torch.Generator().manual_seed(1))
    assert torch.allclose(shares.sum(1), torch.ones(6))
    pasted = (mixed != first).any(1).float().mean((1, 2))
    assert torch.allclose(pasted.max(), 1 - shares.diagonal().min(), atol=1e-6)


def test_patch_dropout_keeps_the_class_token_and_the_chosen_patches():
    keep = steps_of.KeepPatches()
    tokens = torch.arange(2 * 5.0).view(2, 5, 1)
    assert keep(tokens) is tokens
    keep.kept = torch.tensor([[3, 0], [1, 2]])
    assert keep(tokens)[..., 0].tolist() == [[0, 4, 1], [5, 7, 8]]
    assert steps_of.choose_patches(2, 16, 0.75, torch.Generator()).shape == (2, 4)


def test_batches_visit_every_picture_once_an_epoch_and_captions_are_unique():
    sources = tiny_sources()
    counts = [10, 3]
    batches = [source_of.make_batch(sources, counts, step, seed=4) for step in range(2)]
    seen = torch.cat([batch.images[:10] for batch in batches]).flatten(1)
    assert len(seen.unique(dim=0)) == 20
    for batch in batches:
        assert len(set(batch.captions)) == len(batch.captions)
        assert "night" in batch.captions[0]
        rows, columns = batch.groups[1]
        assert set(batch.targets[rows].tolist()) == set(columns.tolist())
    assert sum(source_of.share(256, list(recipe.SHARES["contrastive"].values()))) == 256


def write_set(folder: Path, index: dict, colors: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, value in colors.items():
            with archive.open(name, "w") as file:
                Image.new("RGB", (20, 16), (value, value, value)).save(file, "PNG")
    (folder / "index.json").write_text(json.dumps(index))


def test_no_validation_or_test_picture_is_ever_read_for_training(tmp_path):
    splits = {"a.png": ("train", 10), "b.png": ("val", 100), "c.png": ("test", 200)}
    colors = {name: value for name, (_, value) in splits.items()}
    classes = [{"id": 0, "folder": "x", "name": "sea_horse"}]
    for name in ("caltech101", "eurosat", "flowers5"):
        items = [{"file": file, "label": 0, "split": split} for file, (split, _) in splits.items()]
        write_set(tmp_path / name, {"classes": classes, "items": items}, colors)
    text = {"caption": "Blue Tee", "article": "Tshirts", "color": "Blue", "gender": "Men"}
    rows = [[f"{kind}{file}", split, 0 if kind == "o" else None, None if kind == "o" else text]
            for kind in "op" for file, (split, _) in splits.items()]  # fmt: skip
    write_set(tmp_path / "pretrain64", {"classes": classes, "items": rows}, {k + f: v for k in "op" for f, v in colors.items()})
    sources = sets.load_sources(tmp_path, 16)
    assert [source.name for source in sources] == ["objects", "products", "caltech101", "eurosat", "flowers5", "shapes"]
    for source in sources[:-1]:
        assert source.images.flatten().unique().tolist() == [10]
    assert sources[0].wordings == (("sea horse",),)
    assert sources[1].wordings == (("t-shirt",), ("blue t-shirt",), ("Blue Tee",))
    assert not set(sources[-1].wordings[0]) & set(shapes.HELD_OUT)
    more = {"classes": classes, "items": [["m.png", "train", 0, None], ["n.png", "val", 0, None]]}
    write_set(tmp_path / "pretrain64_more", more, {"m.png": 20, "n.png": 90})
    joined = sets.all_objects(tmp_path, 16)
    assert joined.name == "objects"
    assert joined.images.flatten(1)[:, 0].tolist() == [10, 20]
    assert joined.labels.tolist() == [0, 0]
    (tmp_path / "pretrain64_more" / "index.json").write_text(json.dumps({**more, "classes": [{"id": 0, "name": "horse"}]}))
    with pytest.raises(DataError, match="names other classes than pretrain64"):
        sets.all_objects(tmp_path, 16)


def test_missing_data_is_one_line_that_says_where(tmp_path):
    with pytest.raises(DataError, match=r"pretrain64.index\.json is missing; pre-training expects images\.zip and index\.json"):
        recipe.pretrain(tiny(data=tmp_path), tmp_path / "out")
    with pytest.raises(DataError, match="folder per class"):
        sets.folder_per_class(tmp_path, 16)
    with pytest.raises(DataError, match="absent"):
        recipe.build(tiny(init=tmp_path / "absent.safetensors"))


def test_a_folder_per_class_is_read_with_wordnet_names(tmp_path):
    for name, value in (("n01", 5), ("sea_horse", 9)):
        (tmp_path / "train" / name / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / "train" / name / "images" / "0.png")
    (tmp_path / "words.txt").write_text("n01\ttench, Tinca tinca\n")
    source = sets.folder_per_class(tmp_path / "train", 8)
    assert source.wordings == (("tench", "sea horse"),)
    assert source.images.flatten(1)[:, 0].tolist() == [5, 9]
    assert source.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("article", "name"),
    [
        ("Casual Shoes", "pair of casual shoes"),
        ("Dresses", "dress"),
        ("Watches", "watch"),
        ("Tshirts", "t-shirt"),
        ("Scarves", "scarf"),
    ],
)
def test_articles_are_named_as_people_say_them(article, name):
    assert sets.everyday(article) == name


def test_square_crops_the_middle_of_the_longer_side():
    image = Image.fromarray(np.repeat(np.arange(12, dtype=np.uint8)[None, :, None] * 20, 4, 0).repeat(3, 2))
    assert sets.square(image, 4)[0].tolist() == [[80, 100, 120, 140]] * 4
