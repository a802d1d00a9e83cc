"""A table of any number of images: streamed, resumed, whole or not there, and of one classifier alone."""

import csv
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ironclip.core.errors import UsageError
from ironclip.protocols.classify import predict
from ironclip.protocols.labelling import check_table, label


class Brightness:
    """Three classes by mean brightness; `calls` counts the images seen, `stop` interrupts after so many."""

    classes, resolution, device = ("dark", "grey", "bright"), 8, torch.device("cpu")

    def __init__(self, scale: float = 9.0) -> None:
        self.scale, self.calls, self.stop, self.watch = scale, 0, None, lambda: None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.stop is not None and self.calls >= self.stop:
            raise KeyboardInterrupt
        self.watch()
        self.calls += len(images)
        return self.scale * -(images.mean((1, 2, 3))[:, None] - torch.tensor([0.0, 0.5, 1.0])).abs()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        Image.new("L", (9, 8), 25 * number).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"\x89PNG broken")
    return sorted(folder.iterdir())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_says_what_predict_says_and_why_a_picture_has_no_label(files: list[Path], tmp_path: Path) -> None:
    made = label(Brightness(), files, tmp_path / "out.csv", top=2, batch_size=3)
    rows, bad = predict(Brightness(), files, top=2)
    found = table(tmp_path / "out.csv")
    assert [row["image"] for row in found] == [str(file) for file in files]
    assert list(found[0]) == ["image", "class", "probability", "class_2", "probability_2", "problem"]
    labelled = {row["image"]: (row["class"], float(row["probability"])) for row in found if not row["problem"]}
    assert labelled == {row.name: row.ranked[0] for row in rows}
    assert [(row["image"], row["problem"]) for row in found if row["problem"]] == [(bad[0].name, bad[0].reason)]
    assert (made.pictures, made.unreadable, made.resumed) == (9, 1, 0)
    assert not (tmp_path / "out.csv.part").exists()


def test_a_table_that_was_interrupted_goes_on_and_ends_the_same(files: list[Path], tmp_path: Path) -> None:
    label(Brightness(), files, tmp_path / "whole.csv", batch_size=2)
    first, second = Brightness(), Brightness()
    first.stop = 5
    with pytest.raises(KeyboardInterrupt):
        label(first, files, tmp_path / "out.csv", batch_size=2)
    assert not (tmp_path / "out.csv").exists()
    with (tmp_path / "out.csv.part" / "rows.jsonl").open("a") as file:
        file.write('{"image": "half a li')  # killed while it wrote
    heard: list[tuple[int, int]] = []
    made = label(second, files, tmp_path / "out.csv", batch_size=2, progress=lambda *counts: heard.append(counts))
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert made.resumed == 4
    assert second.calls == 5 + 1  # one cannot be read; and the made-up image by which a classifier is known
    assert heard[0] == (4, 10)
    assert heard[-1] == (10, 10)


def test_no_more_than_one_batch_is_held(files: list[Path], tmp_path: Path) -> None:
    rows, seen = tmp_path / "out.csv.part" / "rows.jsonl", []
    watched = Brightness()
    watched.watch = lambda: seen.append(len(rows.read_text().splitlines()) if rows.exists() else 0)
    label(watched, files, tmp_path / "out.csv", batch_size=2)
    assert seen == [0, 0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"classifier": Brightness(8.0)}, "another classifier"),
        ({"top": 1}, "another --top"),
        ({"files": []}, "other images"),
    ],
)
def test_what_another_call_began_is_not_mixed_in(files: list[Path], tmp_path: Path, change: dict, complaint: str) -> None:
    first = Brightness()
    first.stop = 5
    with pytest.raises(KeyboardInterrupt):
        label(first, files, tmp_path / "out.csv", batch_size=2)
    asked = {"classifier": Brightness(), "files": files, "top": 3} | change
    with pytest.raises(UsageError, match=rf"out\.csv\.part was begun .*{complaint}.*remove that folder"):
        label(asked["classifier"], asked["files"], tmp_path / "out.csv", top=asked["top"], batch_size=2)
    label(Brightness(), files, tmp_path / "out.csv")  # and nothing of the first is lost


def test_parquet_holds_the_same_in_columns_of_their_kinds(files: list[Path], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    label(Brightness(), files, tmp_path / "out.csv")
    label(Brightness(), files, tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet")
    assert str(found.schema.field("probability").type) == "double"
    plain = [{key: None if value == "" else value for key, value in row.items()} for row in table(tmp_path / "out.csv")]
    assert [{key: value if value is None else str(value) for key, value in row.items()} for row in found.to_pylist()] == plain


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_name_that_is_no_utf_8_does_not_stop_a_table(tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    try:
        Image.new("L", (8, 8)).save(str(odd))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    label(Brightness(), [odd], tmp_path / f"out{ending}")
    assert b"caf\\udce9.png" in (tmp_path / f"out{ending}").read_bytes()


def test_names_and_missing_packages_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        check_table(tmp_path / "out.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"ironclip\[parquet\]"):
        check_table(tmp_path / "out.parquet")


def test_a_damaged_beginning_is_one_line(files: list[Path], tmp_path: Path) -> None:
    part = tmp_path / "out.csv.part"
    part.mkdir()
    (part / "rows.jsonl").write_text(json.dumps({"image": str(files[0])}) + "\n")
    with pytest.raises(UsageError, match="remove that folder"):
        label(Brightness(), files, tmp_path / "out.csv")
