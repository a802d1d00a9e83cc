"""Files that open and then fail: graphs whose answers are no logits, archives that lie about their members, odd tensors."""

import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from serve_helpers import trained

from ironclip.backbones.loading import load
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import CheckpointError
from ironclip.protocols.classify import predict
from ironclip.records.learned import load_learned, save_learned
from ironclip.records.verified import sealed
from ironclip.serve.exported import LARGEST_FACTS, open_exported
from ironclip.serve.facts import KEY, Facts
from ironclip.serve.hub import load_pretrained, save_pretrained

FACTS = Facts(
    method="zero_shot", classes=("a", "b"), templates=("a {}",), backbone={"name": "mini"}, resolution=2, preprocessing="none"
)
FLAT, LINEAR = ("Flatten", ["images"], "flat"), ("MatMul", ["flat", "weights"], "logits")
OTHER = "does not take images of 2 pixels and give 2 logits"
SUM = ("MatMul", ["flat", "weights"], "sum")


def graph(*nodes: tuple[Any, ...], given: int = 1, made: int = 1, **constants: Any) -> Path:
    """An .onnx file of (operator, inputs, output, attributes) and constants, with types of its ends; 0: it has none."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    held = [tensor(np.asarray(value), name) for name, value in ({"weights": np.ones((12, 2), np.float32)} | constants).items()]
    ends = [("images", given, ["batch", 3, 2, 2]), ("logits", made, ["batch", 2])]
    ins, outs = ([helper.make_tensor_value_info(*end)] if end[1] else [] for end in ends)
    made_nodes = [helper.make_node(kind, names, [name], **dict(*rest)) for kind, names, name, *rest in nodes]
    model = helper.make_model(
        helper.make_graph(made_nodes, "g", ins, outs, held), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    model.metadata_props.add(key=KEY, value=json.dumps(sealed(FACTS)))
    path = Path("m.onnx")
    path.write_bytes(model.SerializeToString())
    return path


def cast(to: int) -> tuple[Any, ...]:
    return ("Cast", ["sum"], "logits", {"to": to})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: graph(("Constant", [], "logits", {"value_float": 1.0}), given=0), OTHER),
        (lambda: graph(FLAT, LINEAR, made=0), OTHER),
        (lambda: graph(("Cast", ["images"], "x", {"to": 1}), ("Flatten", ["x"], "flat"), LINEAR, given=11), OTHER),
        (lambda: graph(FLAT, SUM, cast(7), made=7), OTHER),
        (lambda: graph(FLAT, SUM, cast(8), made=8), OTHER),
        (lambda: graph(FLAT, SUM, ("ReduceSum", ["sum"], "logits", {"keepdims": 0})), OTHER),
        (lambda: graph(FLAT, ("Gather", ["flat", "i"], "g"), ("MatMul", ["g", "weights"], "logits"), i=[99]), "fails on"),
        (lambda: graph(("Reshape", ["images", "s"], "flat"), LINEAR, s=[7, 12]), "fails on images"),
        (lambda: graph(FLAT, SUM, ("Concat", ["sum", "sum"], "logits", {"axis": 0})), r"\[6, 2\], no float32 logits \[3, 2\]"),
    ],
)  # fmt: skip
def test_a_graph_that_gives_no_logits_is_one_line(make: Callable[[], Path], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        open_exported(make())(torch.zeros(3, 3, 2, 2))
    assert len(str(caught.value).splitlines()) == 1


def test_a_picture_without_a_probability_is_named_and_the_others_are_labelled() -> None:
    dark = graph(FLAT, SUM, ("Log", ["sum"], "log"), ("Sub", ["log", "log"], "logits"))  # black: log 0 - log 0
    for name, value in (("black", 0), ("grey", 99)):
        Image.new("RGB", (4, 4), (value, value, value)).save(f"{name}.png")
    labelled, bad = predict(open_exported(dark), [Path("black.png"), Path("grey.png")])
    assert [each.name for each in labelled] == ["grey.png"]
    assert [(each.name, "NaN or infinity" in each.reason) for each in bad] == [("black.png", True)]


def archive(*entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile("m.pt2", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return Path("m.pt2")


def with_bytes(place: int, value: bytes) -> Callable[[bytes], bytes]:
    """A change of the central directory's entry."""

    def change(content: bytes) -> bytes:
        at = content.index(b"PK\x01\x02") + place
        return content[:at] + value + content[at + len(value) :]

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_bytes(8, b"\x01"), with_bytes(10, struct.pack("<H", 99)), with_bytes(10, struct.pack("<H", 12)),
        with_bytes(6, struct.pack("<H", 99)), with_bytes(42, struct.pack("<I", 0x7FFFFFF0)), lambda content: content[:40],
    ],
    ids=["encrypted", "no such method", "another method", "of the future", "elsewhere", "cut"],
)  # fmt: skip
def test_a_trusted_archive_that_is_damaged_is_one_line(change: Callable[[bytes], bytes]) -> None:
    path = archive((f"m/extra/{KEY}", json.dumps(sealed(FACTS)).encode()))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"m\.pt2 is damaged") as caught:
        open_exported(path, trust=True)
    assert len(str(caught.value).splitlines()) == 1


def test_facts_that_would_fill_the_memory_or_stand_twice_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "read", pytest.fail)
    many = archive((f"m/extra/{KEY}", b" " * (LARGEST_FACTS + 1)))
    with pytest.raises(CheckpointError, match="twice, or one of more than"):
        open_exported(many, trust=True)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive((f"m/extra/{KEY}", b"{}"), (f"m/extra/{KEY}", b"{}"))
    with pytest.raises(CheckpointError, match="twice, or one of more than"):
        open_exported(twice, trust=True)


@pytest.mark.parametrize("code", [True, False])
def test_weights_that_unpack_to_far_more_than_they_are_are_refused(code: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", pytest.fail)
    with zipfile.ZipFile("w.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data/0", b"\0" * 3_000_000)
        file.writestr("m/code/x" if code else "m/x", b"")
    with pytest.raises(CheckpointError, match="would unpack to 3,000,000; torch packs nothing"):
        load("ViT-B-32@w.pt", activation="gelu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = save_pretrained(trained("apt"), tmp_path_factory.mktemp("saved") / "model")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def placed(saved: dict[str, bytes]) -> Path:
    Path("model").mkdir()
    for name, content in saved.items():
        (Path("model") / name).write_bytes(content)
    return Path("model")


def test_a_tensor_that_is_named_twice_is_refused(saved: dict[str, bytes]) -> None:
    path = placed(saved) / "learned.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    head = content[8 : 8 + size].rstrip()
    name, value = next((name, value) for name, value in json.loads(head).items() if name != "__metadata__")
    head = head[:-1] + f",{json.dumps(name)}:{json.dumps(value)}}}".encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + size :])
    with pytest.raises(CheckpointError, match=f"its head names '{name}' twice"):
        load_learned(path)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_tensors_of_another_kind_of_number_do_not_become_prompts(kind: torch.dtype, saved: dict[str, bytes]) -> None:
    path = placed(saved) / "learned.safetensors"
    learned = load_learned(path)
    save_learned(path, replace(learned, tensors={name: tensor.to(kind) for name, tensor in learned.tensors.items()}))
    with pytest.raises(CheckpointError, match=f"does not fit apt.*holds {str(kind).removeprefix('torch.')}, and float32"):
        load_pretrained(path.parent, backbone=tiny_backbone(layers=1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": ["no place"]}, "damaged or of another version"),
        ({"facts": {"resolution": 4096}}, "are of different models"),
    ],
)  # fmt: skip
def test_facts_of_another_model_are_refused(change: dict[str, Any], words: str, saved: dict[str, bytes]) -> None:
    path = placed(saved) / KEY
    value = json.loads(path.read_text())
    value |= {key: value[key] | each if isinstance(each, dict) else each for key, each in change.items()}
    path.write_text(json.dumps(sealed(value)))
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(path.parent, backbone=tiny_backbone(layers=1))


def test_options_that_are_a_list_are_damage(saved: dict[str, bytes]) -> None:
    path = placed(saved) / "learned.safetensors"
    save_learned(path, replace(load_learned(path), options=[]))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="its metadata cannot be read"):
        load_learned(path)
