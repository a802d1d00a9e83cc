"""Lists from strangers: whatever stands in them, they are read or refused in one line."""

import json
import random
import zipfile

import pytest
from folders_by_code import build

from ironclip.core.errors import DataError, IronclipError
from ironclip.data import open_dataset
from ironclip.data.class_lists import class_list
from ironclip.data.lists import inside, label_of, path_of, shown, text_of

ODD = [None, True, 0, -1, 1.5, 10**30, "", " ", "\ud800", "a\0b", "..", "/etc/passwd", "x" * 5000, "\u202e"]
ODD += [[], {}, [[]], {"a": 1}]
COOP = {
    "train": [["fox/0.png", 0, "fox"], ["owl/0.png", 1, "owl"]],
    "val": [["fox/1.png", 0, "fox"]],
    "test": [["owl/1.png", 1, "owl"], ["fox/2.png", 0, "fox"]],
}
COMPACT = {"classes": ["fox", "owl"], "train": [["fox/0.png", 0]], "val": [], "test": [["owl/1.png", 1]]}
INDEX = {
    "dataset": "birds",
    "splits_from": "drawn by hand",
    "templates": ["a {}"],
    "classes": [{"id": 0, "folder": "fox", "name": "fox"}, {"id": 1, "name": "owl"}],
    "items": [{"file": "fox/0.png", "label": 0, "split": "train"}, {"file": "owl/0.png", "label": 1, "split": "test"}],
}
ROWS = [f"{name}/{n}.png,{name},{'train' if n else 'test'}" for name in ("fox", "owl") for n in range(3)]
TABLE = "\n".join(["path,label,split", *ROWS]).encode()
LINES = b"fox\tred fox\nowl => owl\n"
NAMES = {"fox": "red fox", "owl": "barn owl"}


def changed(value, rng):
    """The JSON value with one to three places replaced, removed or doubled."""
    value = copy(value)
    for _ in range(rng.randint(1, 3)):
        places: list = []
        collect(value, places)
        if not places:
            break
        holder, key = rng.choice(places)
        if rng.random() < 0.7:
            holder[key] = copy(rng.choice(ODD))
        else:
            del holder[key]
    return value if rng.random() > 0.05 else copy(rng.choice(ODD))


def copy(value):
    return json.loads(json.dumps(value))


def collect(value, places):
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            collect(value[key], places)


def noisy(content, rng):
    """The bytes with a few of them changed, cut or put in."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(content) + 1)
        extra = rng.choice([b",", b"\t", b"\n", b'"', b"\0", b"=>", b"\xff\xfe", b"\xef\xbb\xbf", b"{" * 50, b"NaN", b"\r"])
        content[at : at + rng.choice([0, 0, 1, 20])] = rng.choice([extra, bytes([rng.randrange(256)]), b""])
    return bytes(content)


def test_whatever_stands_in_a_list_it_is_read_or_refused_in_one_line(tmp_path):
    rng = random.Random(0)
    build(tmp_path / "set", ["{fox,owl}/"])
    packed = build(tmp_path / "zip", [])
    with zipfile.ZipFile(packed / "images.zip", "w") as archive:
        for name in ("fox/0.png", "owl/0.png"):
            archive.write(tmp_path / "set" / name, name)
    listed, table, names = (tmp_path / "set" / name for name in ("mine.json", "list.csv", "names.txt"))
    outcomes = set()
    for _ in range(120):
        value = json.dumps(changed(rng.choice([COOP, COMPACT]), rng)).encode()
        listed.write_bytes(value if rng.random() < 0.7 else noisy(value, rng))
        value = json.dumps(changed(INDEX, rng)).encode()
        (packed / "index.json").write_bytes(value if rng.random() < 0.7 else noisy(value, rng))
        table.write_bytes(noisy(TABLE, rng))
        names.write_bytes(json.dumps(changed(NAMES, rng)).encode() if rng.random() < 0.5 else noisy(LINES, rng))
        for kind, read in {
            "coop": lambda: open_dataset(listed),
            "index": lambda: open_dataset(packed),
            "table": lambda: open_dataset(table),
            "beside": lambda: open_dataset(tmp_path / "set"),
            "names": lambda: class_list(names).alone(),
            "names of": lambda: class_list(names).of(["fox", "owl"]),
        }.items():
            try:
                read()
                outcomes.add((kind, "read"))
            except IronclipError as problem:
                assert "\n" not in str(problem)  # noqa: PT017
                outcomes.add((kind, "refused"))
    assert len(outcomes) >= 10  # both happen


def test_a_damaged_list_that_is_named_a_split_is_never_ignored(tmp_path):
    root = build(tmp_path / "set", ["{fox,owl}/", "notes.json"])
    assert open_dataset(root).origin.startswith("own split")
    (root / "split_zhou_Mine.json").write_text("{")
    with pytest.raises(DataError, match=r"split_zhou_Mine\.json: not JSON"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a b", "'a b'"), ("\ud800", r"'\ud800'"), ([[1]], "[[1]]"), ("x" * 100, "'" + "x" * 56 + "...")],
)
def test_any_value_can_be_shown_in_one_short_line(value, expected):
    assert shown(value) == expected
    assert shown(10**5000) == "int"


def test_the_schema_takes_what_is_meant(tmp_path):
    assert text_of("red\tfox", "here", "a name") == "red\tfox"
    assert label_of(1, "here", 2) == 1
    assert path_of("fox\\0.png", "here") == "fox/0.png"
    assert inside("./a/../b.png", "here", tmp_path) == (tmp_path, "b.png")
    assert inside(str(tmp_path / "b.png"), "here", tmp_path) == (tmp_path, "b.png")
    for wrong in ("..", ".", "/", str(tmp_path), f"{tmp_path}_too/b.png"):
        with pytest.raises(DataError, match="leads out of"):
            inside(wrong, "here", tmp_path)
