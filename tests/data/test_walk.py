"""What lies in a folder: in which order, and what is noticed when it changes."""

import os
from itertools import product

from PIL import Image

from ironclip.data import TrainSet, open_dataset
from ironclip.data.records import Dataset, FileSource, enumerate_items
from ironclip.data.remarks import remarks
from ironclip.data.walk import by_parts, contents


def test_paths_sort_as_their_lists_of_parts():
    parts = ("a", "a-b", "a b", "a.d", "\x01", "ab", "é")
    paths = ["/".join(chosen) for depth in (1, 2, 3) for chosen in product(parts, repeat=depth)]
    assert sorted(paths, key=by_parts) == sorted(paths, key=lambda path: path.split("/"))
    assert sorted(paths) != sorted(paths, key=by_parts)


def test_a_folder_is_listed_in_that_order(tmp_path, paint):
    for name in ("a-b/1.png", "a/z.png", "a/b/2.png", "a.png"):
        paint(tmp_path / name)
    found = contents(tmp_path)
    assert found.pictures == ("a/b/2.png", "a/z.png", "a-b/1.png", "a.png")
    assert found.folders == ("a", "a/b", "a-b")


def test_what_was_added_removed_renamed_and_replaced_is_noticed_at_the_next_opening(tmp_path, paint):
    """No index of names is kept, so none can be stale, however coarse the times of the file system are."""
    folder, cache = tmp_path / "set", tmp_path / "cache"
    for split, kind, number in product(("train", "test"), ("fox", "owl"), range(3)):
        paint(folder / split / kind / f"{number}.png", number)

    def seen() -> dict[str, bytes]:
        found = TrainSet(open_dataset(folder), resolution=8, cache=cache)
        return {found._sources[row].name: found.picture(row).tobytes() for row in range(len(found))}

    before = seen()
    times = {path: path.stat() for path in (folder, folder / "train", folder / "train" / "fox", folder / "train" / "owl")}
    paint(folder / "train" / "owl" / "new.png")
    (folder / "train" / "fox" / "0.png").unlink()
    (folder / "train" / "fox" / "1.png").rename(folder / "train" / "fox" / "renamed.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "train" / "owl" / "0.png")
    for path, status in times.items():  # a file system whose clock ticks every two seconds shows no change of a folder
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = seen()
    assert after.keys() - before.keys() == {"train/owl/new.png", "train/fox/renamed.png"}
    assert before.keys() - after.keys() == {"train/fox/0.png", "train/fox/1.png"}
    assert after["train/fox/renamed.png"] == before["train/fox/1.png"]
    assert after["train/owl/0.png"] == Image.new("RGB", (8, 8), "blue").tobytes() != before["train/owl/0.png"]


def test_a_file_in_two_splits_is_named_and_the_same_name_in_two_folders_is_not(tmp_path):
    def said(tested: FileSource) -> str:
        train = enumerate_items([(FileSource(tmp_path, "x.png"), 0), (FileSource(tmp_path, "y.png"), 1)])
        splits = {"train": train, "test": enumerate_items([(tested, 0), (FileSource(tmp_path, "z.png"), 1)])}
        return " ".join(remarks(Dataset("set", ("fox", "owl"), ("{}",), splits, "test")))

    assert "1 image is listed in more than one split, e.g. 'x.png'" in said(FileSource(tmp_path, "x.png"))
    assert "more than one split" not in said(FileSource(tmp_path / "other", "x.png"))
