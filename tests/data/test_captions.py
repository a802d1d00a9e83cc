"""Texts that belong to single images: of the generated set, of a table, and in the batches of a training."""

import torch

from ironclip.data import open_dataset, shapes
from ironclip.data.batches import TrainSet
from ironclip.data.sampling import few_shot


def test_shapes_say_what_they_show_without_painting():
    for style in shapes.STYLES:
        for index in (0, 7, 31):
            assert shapes.caption("train", index, style=style) == shapes.draw("train", index, style=style)[2]


def test_a_batch_holds_the_captions_of_its_pictures():
    data = few_shot(open_dataset("shapes"), 1, 1)
    training = TrainSet(data, resolution=32)
    (batch,) = training.batches(1, 0, 100, augment="none")
    where = {int(index): text for index, text in zip(training.indices, training.texts, strict=True)}
    assert batch.texts == tuple(where[int(index)] for index in batch.indices)
    for text, label in zip(batch.texts, batch.labels.tolist(), strict=True):
        assert data.classes[label] in text
    assert batch.rows(slice(1, 3)).texts == batch.texts[1:3]
    assert batch.to("cpu").texts == batch.texts
    assert torch.equal(batch.rows(slice(1, 3)).labels, batch.labels[1:3])


def test_a_table_with_a_column_caption_gives_texts_and_another_hash(tmp_path):
    from PIL import Image

    lines = ["path,label,split,caption"]
    for number in range(4):
        Image.new("RGB", (40, 40), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(
            f'{number}.png,{"cat" if number % 2 else "dog"},{"train" if number < 2 else "test"},"image, number {number}"'
        )
    table = tmp_path / "list.csv"
    table.write_text("\n".join(lines))
    found = open_dataset(str(table))
    assert TrainSet(found, resolution=32).texts == ("image, number 0", "image, number 1")
    table.write_text("\n".join(lines).replace("number 1", "number one"))
    assert open_dataset(str(table)).sha256 != found.sha256
    table.write_text("\n".join(line.split(',"')[0].removesuffix(",caption") for line in lines))
    assert TrainSet(open_dataset(str(table)), resolution=32).texts == ()
