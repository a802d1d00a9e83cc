"""Images that a program hands over become a data set like any other, or are refused in one line."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import ironclip
from ironclip.core.errors import DataError, IronclipError, UsageError
from ironclip.data import decode, open_dataset
from ironclip.data.handed import keep
from ironclip.data.records import SPLITS

LABELS = [0, 1] * 5


def pictures(count: int = 10) -> list[Image.Image]:
    return [Image.new("RGB", (6, 5), (20 * k, 0, 255 - 20 * k)) for k in range(count)]


class Torch:
    """A data set as torchvision has it."""

    classes = ("cat", "school_bus")

    def __init__(self, count: int = 10, transform=None) -> None:
        self.count, self.transform = count, transform or (lambda image: image)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int):
        if position >= self.count:
            raise IndexError(position)
        return self.transform(pictures(self.count)[position]), LABELS[position]


class HuggingFace(list):
    """Rows with features, columns by name and rows by number."""

    features = {  # noqa: RUF012
        "img": type("Image", (), {})(),
        "label": type("ClassLabel", (), {"names": ["cat", "school_bus"]})(),
    }

    def __init__(self, count: int = 10) -> None:
        super().__init__({"img": image, "label": label} for image, label in zip(pictures(count), LABELS))

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


def tensors(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


SOURCES = {
    "torchvision": lambda: (Torch(), {}),
    "tensors": lambda: (Torch(transform=tensors), {}),
    "arrays": lambda: (Torch(transform=np.asarray), {}),
    "subset": lambda: (Subset(Torch(), range(10)), {}),
    "parts joined": lambda: (ConcatDataset([Subset(Torch(), range(4)), Subset(Torch(), range(4, 10))]), {}),
    "hugging face": lambda: (HuggingFace(), {}),
    "images and words": lambda: (pictures(), {"labels": [["cat", "school bus"][label] for label in LABELS]}),
    "images and numbers": lambda: (pictures(), {"labels": np.array(LABELS), "classes": ["cat", "school bus"]}),
    "pairs": lambda: (list(zip(pictures(), LABELS)), {"classes": ["cat", "school bus"]}),
    "two lists": lambda: ((pictures(), LABELS), {"classes": ["cat", "school bus"]}),
    "tensors of torch": lambda: (
        TensorDataset(torch.stack([tensors(image) for image in pictures()]), torch.tensor(LABELS)),
        {"classes": ["cat", "school bus"]},
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_gives_the_same_pictures_labels_and_names(tmp_path: Path, kind: str) -> None:
    source, more = SOURCES[kind]()
    found = open_dataset(keep(source, cache=tmp_path, **more))
    assert found.classes == ("cat", "school bus")
    assert [found.counts(split) for split in SPLITS] == [(3, 3), (0, 0), (2, 2)] or sum(map(len, found.splits.values())) == 10
    for items in found.splits.values():
        for item in items:
            position = int(Path(item.source.name).stem)
            assert item.label == LABELS[position]
            assert np.array_equal(np.asarray(decode(item.source)), np.asarray(pictures()[position]))


def test_splits_stay_what_they_were(tmp_path: Path) -> None:
    found = open_dataset(keep({"train": Torch(10), "test": Torch(4)}, cache=tmp_path))
    assert [len(found.splits[split]) for split in SPLITS] == [10, 0, 4]
    found = open_dataset(keep({"train": Torch(10), "validation": Torch(4)}, cache=tmp_path))
    assert [len(found.splits[split]) for split in SPLITS] == [10, 0, 4]
    assert found.origin == "handed over in Python, validation as test"


def test_the_same_pictures_lie_in_one_folder_and_others_in_another(tmp_path: Path) -> None:
    first = keep(Torch(), cache=tmp_path)
    assert keep(Torch(), cache=tmp_path) == first
    assert keep(Torch(8), cache=tmp_path) != first
    assert keep(Torch(transform=lambda image: image.rotate(90)), cache=tmp_path) != first
    assert first.name.startswith("Torch-")
    assert len(list((tmp_path / "handed").iterdir())) == 3


@pytest.mark.parametrize(
    ("source", "more", "complaint"),
    [
        (pictures(), {}, r"give labels=\[...\]"),
        (pictures(), {"labels": [0]}, "10 images and 1 label"),
        (pictures(), {"labels": LABELS}, "say what it means with classes"),
        (pictures(), {"labels": LABELS, "classes": "names.txt"}, "list of names"),
        (pictures(), {"labels": [0, 7] * 5, "classes": ["a", "b"]}, "its label 7 is none of the 2 classes"),
        (pictures(), {"labels": [0, True] * 5, "classes": ["a", "b"]}, "its label True"),
        (pictures(), {"labels": [0, None] * 5, "classes": ["a", "b"]}, "its label None"),
        (["a.jpg"] * 10, {"labels": LABELS, "classes": ["a", "b"]}, "got str"),
        (Torch(transform=lambda image: 4 * tensors(image) - 2), {}, "leave out Normalize"),
        (Torch(transform=lambda image: tensors(image).long()), {}, "expected bytes"),
        (Torch(transform=lambda image: tensors(image)[None]), {}, "got the shape"),
        (Torch(transform=lambda image: float("nan") * tensors(image)), {}, "leave out Normalize"),
        (DataLoader(Torch()), {}, "hand over its .dataset"),
        (iter(pictures()), {}, r"len\(\)"),
        (7, {}, "got int"),
        ({"fold1": Torch(), "fold2": Torch()}, {}, "splits are called train, val and test"),
        ({"train": Torch()}, {"labels": LABELS}, "labels belong to a list"),
        ([], {"labels": [], "classes": ["a", "b"]}, "no image"),
        (SimpleNamespace(dataset=Torch()), {}, "hand over its .dataset"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(tmp_path: Path, source, more: dict, complaint: str) -> None:
    with pytest.raises(IronclipError, match=complaint) as problem:
        open_dataset(keep(source, cache=tmp_path, **more))
    assert isinstance(problem.value, UsageError | DataError)
    assert "\n" not in str(problem.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "pictures-" not in str(path.parent)]


def test_the_front_door_takes_them_and_the_command_line_opens_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    data = ironclip.dataset(pictures(), LABELS, classes=["cat", "dog"], shots=1)
    model = ironclip.zero_shot(ironclip.load("mini"), data)
    again = ironclip.Model.from_pretrained(model.run.path)
    assert again.classes == ("cat", "dog")
    assert "handed over in Python, own split" in repr(again.experiment.dataset)
    for wrong in ({"labels": LABELS}, {"classes": ["a", "b"]}):
        with pytest.raises(UsageError, match="a name or a path"):
            ironclip.dataset("shapes", **wrong)
    for wrong in ({"layout": "classes"}, {"classes": "names.txt"}):
        with pytest.raises(UsageError, match="handed over"):
            ironclip.dataset(pictures(), LABELS, **wrong)
