"""Learned tensors come back as they were, on the backbone they were learned on, and nothing is unpickled."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ironclip.core.errors import CheckpointError
from ironclip.records.learned import Learned, load_learned, load_state, save_learned, save_state, seal_again
from ironclip.records.pictures import Example, load_examples, save_examples

LEARNED = Learned(
    {"context": torch.randn(4, 8), "half": torch.ones(2, dtype=torch.bfloat16), "step": torch.tensor(3)},
    base_sha256="a" * 64,
    method="nap",
    options={"depth": 9, "kind": "both", "rate": 0.1},
    classes=("tabby cat", "Schäferhund"),
)


def test_what_was_learned_comes_back(tmp_path):
    save_learned(tmp_path / "learned.safetensors", LEARNED)
    again = load_learned(tmp_path / "learned.safetensors", "a" * 64)
    assert (again.method, again.options, again.classes) == (LEARNED.method, LEARNED.options, LEARNED.classes)
    assert again.tensors.keys() == LEARNED.tensors.keys()
    for name, tensor in LEARNED.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
        assert again.tensors[name].dtype == tensor.dtype


def test_equal_content_is_an_equal_file(tmp_path):
    contents = set()
    for _ in range(5):
        save_learned(tmp_path / "l", LEARNED)
        contents.add((tmp_path / "l").read_bytes())
    assert len(contents) == 1


def test_views_of_one_tensor_can_be_saved(tmp_path):
    base = torch.arange(6.0)
    save_learned(tmp_path / "l", Learned({"a": base[:3], "b": base.view(2, 3).T}, "", "nap", {}, ()))
    assert torch.equal(load_learned(tmp_path / "l").tensors["b"], base.view(2, 3).T)


def test_nothing_learned_is_a_file_as_well(tmp_path):
    save_learned(tmp_path / "l", Learned({}, "a", "zero_shot", {}, ("a", "b")))
    assert load_learned(tmp_path / "l", "a").tensors == {}


def test_other_frozen_weights_are_refused(tmp_path):
    save_learned(tmp_path / "l", LEARNED)
    with pytest.raises(CheckpointError, match="learned on a backbone with sha256 aaaaaaaaaaaa, but this one has bbbbbbbbbbbb"):
        load_learned(tmp_path / "l", "b" * 64)


def test_a_missing_a_damaged_and_a_foreign_file_are_told_apart(tmp_path):
    path = tmp_path / "learned.safetensors"
    with pytest.raises(CheckpointError, match="does not exist"):
        load_learned(path)
    path.write_bytes(b"PK\x03\x04 a pickle")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_learned(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="does not say its format"):
        load_learned(path)
    with pytest.raises(CheckpointError, match="does not say its format"):
        load_state(path)
    save_learned(path, LEARNED)
    with pytest.raises(CheckpointError, match="is no training state"):
        load_state(path)


def test_a_tree_comes_back_with_its_types(tmp_path):
    tree = {
        0: {"step": torch.tensor(2.0), "betas": (0.9, 0.999)},
        "list": [1, None, "x", True, [2.5]],
        "tensor": {"tensor": "t0"},
    }
    save_state(tmp_path / "s", tree)
    assert load_state(tmp_path / "s") == tree
    assert isinstance(load_state(tmp_path / "s")[0]["betas"], tuple)


def test_what_is_no_tree_is_refused(tmp_path):
    with pytest.raises(TypeError, match="got set"):
        save_state(tmp_path / "s", {"a": {1, 2}})
    assert not list(tmp_path.iterdir())


def test_pictures_come_back(tmp_path):
    picture = Example(7, 1, torch.rand(3, 4, 4), torch.rand(3, 4, 4), 1, 0, "pgd")
    assert load_examples(tmp_path / "e") == []
    save_examples(tmp_path / "e", [picture])
    (again,) = load_examples(tmp_path / "e")
    assert torch.equal(again.adversarial, picture.adversarial)
    assert (again.index, again.attack, again.prediction) == (7, "pgd", 0)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "l"
    save_learned(path, LEARNED)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="its tensors are not those that were written"):
        load_learned(path)


def rewritten(path, **changes):
    """The file with other metadata; None takes one away."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata = {key: value for key, value in (metadata | changes).items() if value is not None}
    save_file(load_file(path), path, metadata)


KEYS = ("format", "base_sha256", "method", "options", "classes", "crc32", "sha256")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ['"edited"', None], ids=["edited", "taken away"])
def test_what_a_learned_file_says_of_itself_is_under_a_checksum(tmp_path, key, value):
    save_learned(tmp_path / "l", LEARNED)
    rewritten(tmp_path / "l", **{key: value})
    with pytest.raises(CheckpointError) as caught:
        load_learned(tmp_path / "l")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"tree": "{}"}, {"tree": None}, {"crc32": None}, {"sha256": None}, {"more": "x"}])
def test_a_training_state_is_under_a_checksum(tmp_path, changes):
    save_state(tmp_path / "s", {"epoch": 3})
    rewritten(tmp_path / "s", **changes)
    with pytest.raises(CheckpointError, match="is damaged: its metadata are not those that were written"):
        load_state(tmp_path / "s")


@pytest.mark.parametrize("crc", [{}, {"crc32": None}], ids=["with CRC-32", "without"])
def test_a_file_of_the_older_format_is_read_only_after_its_owner_sealed_it(tmp_path, crc):
    path = tmp_path / "l"
    save_learned(path, LEARNED)
    assert not seal_again(path)
    rewritten(path, format="1", sha256=None, **crc)
    for read in (load_learned, load_state):
        with pytest.raises(CheckpointError, match=r"format '1'; .* if it is yours: `ironclip verify --seal RUN`"):
            read(path)
    assert seal_again(path)
    assert load_learned(path).options == LEARNED.options
    assert not seal_again(path)
