"""Which device is taken, and one line where there is none of that name."""

import pytest

from ironclip.core.devices import pick_device
from ironclip.core.errors import UsageError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


def test_auto_is_the_best_there_is(two_gpus):
    assert pick_device("auto") == "cuda"


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there_is_taken_as_it_is_named(two_gpus, name):
    assert pick_device(name) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:2", r"device 'cuda:2' is not usable here; usable: cpu, cuda \(0 to 1\)"),
        ("mps", "device 'mps' is not usable here"),
        ("cuda:0..7", "Several workers take all GPUs of cuda, or those that CUDA_VISIBLE_DEVICES names"),
        ("gpu", "--device is auto, cpu, cuda, one GPU such as cuda:1, or mps; got 'gpu'"),
        ("cuda:-1", "got 'cuda:-1'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_in_one_line(two_gpus, monkeypatch, name, words):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(UsageError, match=words):
        pick_device(name)
