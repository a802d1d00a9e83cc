"""WebDataset shards are a set like any other, and an archive of a stranger is refused in one line."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from ironclip.core.errors import DataError, UsageError
from ironclip.data import EvalSet, TrainSet, check, open_dataset
from ironclip.data.records import SPLITS
from ironclip.data.tars import LONGEST_HEADER, members


def put(archive: Path, files: Iterable[tuple[str, bytes]], *odd: tarfile.TarInfo) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for entry in odd:
            tar.addfile(entry)
    return archive


def samples(photos: Path, kinds: dict[str, str], start: int = 0, count: int = 5) -> list[tuple[str, bytes]]:
    """Members of some images of each class: the image, then its label as the text says ({"red_fox": "1"})."""
    found = []
    for folder, label in kinds.items():
        for number in range(start, start + count):
            key = f"{folder}{number:04d}"
            found += [(f"{key}.png", (photos / folder / f"{number:02d}.png").read_bytes()), (f"{key}.cls", label.encode())]
    return found


KINDS = {"badger": "0", "owl": "1"}


@pytest.fixture
def one(photos, tmp_path) -> Path:
    return put(tmp_path / "set" / "0.tar", samples(photos, KINDS))


def test_one_shard_is_divided_like_a_folder_and_names_come_from_a_file(one, tmp_path):
    found = open_dataset(one)
    assert (found.name, found.classes, found.origin) == ("0", ("0", "1"), "own split 60/10/30, seed 0")
    assert [found.counts(split) for split in SPLITS] == [(3, 3), (0, 0), (2, 2)]
    (tmp_path / "names.txt").write_text("badger\nowl\n")
    assert open_dataset(one.parent, classes_file=tmp_path / "names.txt").classes == ("badger", "owl")


def test_split_folders_and_class_names_beside_them_are_those_of_clip_benchmark(photos, tmp_path):
    for number in range(2):
        put(tmp_path / "wds" / "train" / f"{number}.tar", samples(photos, KINDS, number, 1))
    put(tmp_path / "wds" / "test" / "0.tar", samples(photos, KINDS, 3, 2))
    (tmp_path / "wds" / "test" / "nshards.txt").write_text("1")
    (tmp_path / "wds" / "classnames.txt").write_text("European badger\ntawny owl\n")
    found = open_dataset(tmp_path / "wds")
    assert (found.classes, found.origin) == (("European badger", "tawny owl"), "shards")
    assert [found.counts(split) for split in SPLITS] == [(2, 2), (0, 0), (2, 2)]
    assert [item.source.name for item in found.splits["train"]][:3] == [
        "train/0.tar/badger0000.png", "train/0.tar/owl0000.png", "train/1.tar/badger0001.png",
    ]  # fmt: skip
    assert check(tmp_path / "wds").ok


def test_splits_in_the_names_of_shards_are_read_and_one_without_is_refused(photos, tmp_path):
    for name in ("toy-train-0000", "toy-train-0001", "toy-validation-0000"):
        put(tmp_path / "wds" / f"{name}.tar", samples(photos, KINDS, int(name[-1]), 1))
    found = open_dataset(tmp_path / "wds")
    assert [len(found.splits[split]) for split in SPLITS] == [4, 0, 2]
    assert "val serves as the test split" in found.notes[0]
    put(tmp_path / "wds" / "more.tar", samples(photos, KINDS, 4, 1))
    with pytest.raises(DataError, match=r"the name of more\.tar says no split"):
        open_dataset(tmp_path / "wds")


def test_labels_in_json_are_numbers_or_names_and_never_both(photos, tmp_path):
    def archive(first: object, second: object) -> Path:
        files = samples(photos, KINDS)
        texts = iter([json.dumps(first)] * 5 + [json.dumps(second)] * 5)
        return put(
            tmp_path / "j.tar",
            [(name, data) if name.endswith("png") else (name[:-3] + "json", next(texts).encode()) for name, data in files],
        )

    assert open_dataset(archive({"label": 0}, {"label": 1, "cls": 7})).classes == ("0", "1")
    assert open_dataset(archive({"class_name": "red_fox"}, {"cls": "owl"})).classes == ("owl", "red fox")
    for first, second, words in (
        ({"label": 0}, {"label": "owl"}, r"labels are numbers \(0\) and names \('owl'\)"),
        ({"label": 0}, {"label": -1}, "no number from 0"),
        ({"label": 0}, {"label": 10**9}, "no number from 0"),
        ({"label": 0}, {"label": True}, "expected a label"),
        ({"label": 0}, {"width": 3}, "expected a label"),
        ({"label": 0}, [1], "expected a label"),
    ):
        with pytest.raises(DataError, match=words):
            open_dataset(archive(first, second))


def test_images_and_batches_are_those_of_the_same_files_in_folders_kept_or_decoded_anew(photos, tmp_path):
    for folder in KINDS:
        for path in sorted((photos / folder).iterdir()):
            target = tmp_path / "plain" / "train" / folder / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    files = [
        (f"{folder}{path.stem}.{end}", content)
        for folder, label in KINDS.items()
        for path in sorted((photos / folder).iterdir())
        for end, content in (("png", path.read_bytes()), ("cls", label.encode()))
    ]
    put(tmp_path / "packed" / "train" / "0.tar", files)
    for name in ("plain/test/badger/0.png", "plain/test/owl/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes((photos / "owl" / "00.png").read_bytes())
    put(tmp_path / "packed" / "test" / "0.tar", samples(photos, KINDS, 0, 1))
    plain, packed = open_dataset(tmp_path / "plain"), open_dataset(tmp_path / "packed")
    for largest in (10**9, 0):
        ours, theirs = (TrainSet(found, resolution=8, largest=largest) for found in (packed, plain))
        assert len(ours) == 17 - 5
        for epoch, start in ((1, 0), (2, 1)):
            pairs = zip(*(data.batches(epoch, 3, 4, start=start) for data in (ours, theirs)), strict=True)
            assert all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)
    tested = EvalSet(packed, resolution=8)
    assert len(tested) == 2


def test_a_shard_that_was_written_anew_is_read_anew(one, photos):
    before = EvalSet(open_dataset(one), "train", resolution=8).pictures.images.clone()
    put(
        one,
        [
            (name, (photos / "red_fox" / "03.png").read_bytes() if name[-3:] == "png" else data)
            for name, data in samples(photos, KINDS)
        ],
    )
    assert not torch.equal(EvalSet(open_dataset(one), "train", resolution=8).pictures.images, before)


def test_a_damaged_image_is_named_and_the_others_are_used(photos, tmp_path):
    files = samples(photos, KINDS)
    files[2] = (files[2][0], files[2][1][:40])
    report = check(put(tmp_path / "d.tar", files))
    assert [bad.name for found in report.bad.values() for bad in found] == ["d.tar/badger0001.png"]


def test_folders_of_images_with_an_archive_beside_them_are_read_as_before(photos, tmp_path):
    put(photos / "photos.tar", [("x.png", b"")])
    assert open_dataset(photos).classes == ("badger", "owl", "red fox")
    with pytest.raises(UsageError, match="holds shards"):
        open_dataset(put(tmp_path / "x.tar", []), layout="classes")


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (entry("a.png", tarfile.SYMTYPE, "/etc/passwd"), "no plain file but a link"),
        (entry("a.png", tarfile.LNKTYPE, "badger0000.png"), "no plain file but a link"),
        (entry("a.png", tarfile.CHRTYPE), "no plain file but a link, a device"),
        (entry("a.png", tarfile.FIFOTYPE), "no plain file"),
        (entry("/etc/a.png"), "leads out of the archive"),
        (entry("a/../../b.png"), "leads out of the archive"),
        (entry("..\\b.png"), "leads out of the archive"),
        (entry("badger0000.jpg"), "have one key"),
        (entry("alone.png"), "has no label; expected alone.cls or alone.json"),
    ],
)
def test_members_that_are_no_plain_labelled_images_are_refused(photos, tmp_path, odd, words):
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(put(tmp_path / "bad.tar", samples(photos, KINDS), odd))
    assert "\n" not in str(caught.value)


def altered(tar: bytes, size: bytes | None = None, kind: bytes = b"0") -> bytes:
    """The first header with another size and kind, and its checksum."""
    head = bytearray(tar[:512])
    head[156:157] = kind
    if size is not None:
        head[124:136] = size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + tar[512:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tar: tar[:700], "cut off|unexpected end"),
        (lambda tar: tar[: len(tar) // 2], "cut off"),
        (lambda tar: tar[: tar.index(b"badger0002.png")], "neither a header nor the end"),
        (lambda tar: gzip.compress(tar), "not a whole tar archive without compression"),
        (lambda tar: b"<!DOCTYPE html>" + b" " * 2000, "not a whole tar archive"),
        (lambda tar: b"", "not a whole tar archive"),
        (lambda tar: altered(tar, b"77777777777\0"), "cut off"),
        (lambda tar: altered(tar, b"\xff" * 12), "not a whole tar archive"),
        (lambda tar: altered(tar, b"77777777777\0", b"L"), "a header of 8589934592 bytes"),
        (lambda tar: altered(tar, b"77777777777\0", b"x"), "a header of 8589934592 bytes"),
        (lambda tar: tar.replace(b"badger0001.png", b"badger0001.pnx"), "neither a header nor the end at byte"),
    ],
    ids=[
        "700 bytes",
        "half",
        "between two members",
        "gzip",
        "page",
        "empty",
        "size",
        "negative",
        "long name",
        "extended header",
        "checksum",
    ],
)
def test_an_archive_that_is_damaged_or_lies_about_its_sizes_is_refused(one, change, words):
    one.write_bytes(change(one.read_bytes()))
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(one)
    assert "\n" not in str(caught.value)


def test_a_label_of_any_length_is_not_read(photos, tmp_path):
    files = [*samples(photos, KINDS), ("badger0000.json", b" " * (LONGEST_HEADER + 1))]
    with pytest.raises(DataError, match="has 1,000,001 bytes; at most 100,000 are read"):
        open_dataset(put(tmp_path / "l.tar", files))


def test_members_are_where_they_say(one):
    content = one.read_bytes()
    with tarfile.open(one) as tar:
        for name, offset, length in members(one):
            assert content[offset : offset + length] == tar.extractfile(name).read()
