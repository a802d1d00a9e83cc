import pickle

import numpy as np
import pytest
from torchvision import datasets

from ironclip.core.errors import DataError, UsageError
from ironclip.data import EvalSet, decode, open_dataset
from ironclip.data.records import SPLITS


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 in its own format with 20 training and 10 test images; torchvision's checksums are for the real one."""
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    rng = np.random.default_rng(0)
    for name, count in [(f"data_batch_{n}", 4) for n in range(1, 6)] + [("test_batch", 10)]:
        content = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": [k % 10 for k in range(count)]}
        (base / name).write_bytes(pickle.dumps(content))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "big_truck"]
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    return tmp_path


def test_a_set_kept_in_memory(cifar):
    found = open_dataset("cifar10", root=cifar)
    assert found.classes[0] == "airplane"
    assert found.classes[9] == "big truck"
    assert [len(found.splits[split]) for split in SPLITS] == [20, 0, 10]
    expected = datasets.CIFAR10(str(cifar), train=False)
    for item in found.splits["test"]:
        image, label = expected[item.index]
        assert item.label == label
        assert decode(item.source).tobytes() == image.tobytes()
    assert len(EvalSet(found, resolution=32)) == 10
    assert found.sha256 == open_dataset("cifar10", root=cifar).sha256
    assert found.origin == "torchvision CIFAR10"


def test_a_set_of_files_keeps_files(tmp_path, paint):
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for split in SPLITS:
        names = [f"{name}/{name}_{split}.jpg" for name in ("banded", "polka_dotted")]
        for n, name in enumerate(names):
            paint(base / "images" / name, n)
        (base / "labels" / f"{split}1.txt").write_text("\n".join(names))
    found = open_dataset("torchvision:dtd", root=tmp_path)
    assert (found.name, found.classes) == ("torchvision:dtd", ("banded", "polka dotted"))
    assert [found.counts(split) for split in SPLITS] == [(1, 1)] * 3
    assert found.splits["val"][1].source.name == "dtd/dtd/images/polka_dotted/polka_dotted_val.jpg"
    assert found.templates == ("{} texture.",)
    with pytest.raises(DataError, match=r"official lists split_zhou_DescribableTextures\.json are missing"):
        open_dataset("dtd", root=tmp_path)  # torchvision's split is another benchmark than CoOp's


def test_a_set_without_splits_gets_one_that_says_so(tmp_path, paint):
    for name in ("Forest", "River"):
        for n in range(10):
            paint(tmp_path / "eurosat" / "2750" / name / f"{n}.jpg", n)
    found = open_dataset("torchvision:eurosat", root=tmp_path)
    assert [found.counts(split) for split in SPLITS] == [(5, 5), (2, 2), (3, 3)]
    assert found.origin == "torchvision EuroSAT; own split 50/20/30, seed 0"


def test_a_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError) as problem:
        open_dataset("cifar100", root=tmp_path)
    assert str(problem.value).startswith(f"cifar100 is not here, or not whole; looked in {tmp_path}; ")
    assert "`ironclip data prepare cifar100` downloads it" in str(problem.value)
    assert "\n" not in str(problem.value)
    with pytest.raises(DataError, match=r"stanford_cars is not here.*its download no longer works"):
        open_dataset("torchvision:stanford_cars", root=tmp_path, download=True)


def test_downloads_happen_only_on_request_and_fail_in_one_line(tmp_path, monkeypatch):
    calls = []

    def offline(self):
        calls.append(self.root)
        raise OSError("no network\nhere")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    with pytest.raises(DataError):
        open_dataset("cifar10", root=tmp_path / "new")
    assert calls == []
    with pytest.raises(DataError, match="cifar10: the download failed: no network here"):
        open_dataset("cifar10", root=tmp_path / "new", download=True)
    assert calls == [str(tmp_path / "new")]


def test_download_fetches_the_pictures_of_a_benchmark(tmp_path, paint, monkeypatch):
    def fetch(self):
        for n in range(4):
            paint(tmp_path / "eurosat" / "2750" / "ab"[n % 2] / f"{n}.jpg", n)

    monkeypatch.setattr(datasets.EuroSAT, "download", fetch)
    with pytest.raises(DataError, match=r"official lists split_zhou_EuroSAT\.json are missing"):
        open_dataset("eurosat", root=tmp_path, download=True)
    assert (tmp_path / "eurosat" / "2750" / "a" / "0.jpg").is_file()


def test_sets_unknown_to_torchvision_are_refused(tmp_path):
    with pytest.raises(UsageError, match="torchvision has no data set 'ucf101'"):
        open_dataset("torchvision:ucf101", root=tmp_path)
    with pytest.raises(UsageError, match="unknown data set 'torchvision:dtdd'"):
        open_dataset("torchvision:dtdd", root=tmp_path)


class Held:
    """What torchvision's objects look like from outside."""

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def __len__(self):
        return 2


def test_class_names_may_be_synonyms_and_samples_may_hold_both():
    from ironclip.data.catalogue import entry
    from ironclip.data.torchvision_sets import _classes, _files, _labels

    held = Held(classes=[("tench", "Tinca tinca"), ("church",)], _samples=[("b.jpg", 1), ("a.jpg", 0)])
    assert _classes(entry("imagenette"), held) == ("tench", "church")
    assert (_labels(held), _files(held)) == ([1, 0], ["b.jpg", "a.jpg"])
    assert len(_classes(entry("gtsrb"), Held())) == 43
    assert _classes(entry("caltech256"), Held(categories=["001.ak47", "002.american-flag", "251.airplanes-101"])) == (
        *("ak47", "american flag", "airplanes"),
    )
