"""Files made to run code, to read other files or to fetch from elsewhere: each is refused in one line, and nothing happened."""

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from serve_helpers import trained

import ironclip
from ironclip import defenses, testtime
from ironclip.backbones import loading
from ironclip.backbones.checkpoints import read_checkpoint
from ironclip.backbones.loading import load
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import CheckpointError, IronclipError, UsageError
from ironclip.protocols import outside
from ironclip.protocols.config import configure
from ironclip.protocols.few_shot import open_run
from ironclip.records.learned import load_learned, load_state, save_learned
from ironclip.records.verified import sealed
from ironclip.serve import hub
from ironclip.serve.exported import open_exported
from ironclip.serve.facts import KEY, Facts
from ironclip.serve.hub import load_pretrained, save_pretrained
from ironclip.serve.model import open_model
from ironclip.serve.opening import open_shipped


class Trap:
    """What a hostile pickle calls; the mark is the side effect."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that hostile code makes: `trap:spring` does, and `trap` does when it is imported."""
    mark = tmp_path / "it-ran"
    (tmp_path / "trap.py").write_text(f"from pathlib import Path\n\ndef spring(*_): Path({str(mark)!r}).touch()\n\nspring()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return mark


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a saved folder of zero-shot classification."""
    folder = save_pretrained(trained("zero_shot"), tmp_path_factory.mktemp("saved") / "model")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(kind: type[IronclipError], call: Callable[[], object], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "part", ["models/model.json", "data/weights/model.pt", "data/constants/model.pt", "data/sample_inputs/model.pt"]
)
def test_a_pt2_is_not_touched_by_torch_without_trust(part: str, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_, **__):
        raise AssertionError("torch read the file")

    for reader in ("torch.export.load", "torch.load", "torch.jit.load"):
        monkeypatch.setattr(reader, never)
    with zipfile.ZipFile("m.pt2", "w") as archive:
        archive.writestr(f"m/extra/{KEY}", "{}")
        archive.writestr(f"m/{part}", pickle.dumps(Trap(mark)))
    file = Path("m.pt2")
    for door in (open_exported, open_model, open_shipped, ironclip.load_classifier):
        one_line(UsageError, lambda door=door: door(file), "can run any code when it is opened.*--trust")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("method", "option"), [("zero_shot+difftpt", "difftpt.generator"), ("difftpt", "generator"), ("difftpt", "difftpt.generator")]
)
def test_no_configuration_names_code(method: str, option: str, saved: dict[str, bytes], mark: Path) -> None:
    hostile = {"method": method, "options": {option: "trap:spring"}}
    values = {"dataset": "shapes", "backbone": "mini", "shots": 1, "seed": 1}
    one_line(UsageError, lambda: configure(values | hostile), "names code")
    run = mark.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(values | hostile))
    (run / "learned.safetensors").write_bytes(saved["learned.safetensors"])
    one_line(UsageError, lambda: open_run(run), "names code")
    one_line(UsageError, lambda: open_model(run), "names code")
    folder = altered(saved, mark.parent / "saved", **hostile)
    one_line(UsageError, lambda: load_pretrained(folder, backbone=tiny_backbone(layers=1)), "names code")
    one_line(UsageError, lambda: testtime.build("difftpt", {"generator": "trap:spring"}), "named by the caller alone")
    assert not mark.exists()
    (run / "config.yaml").write_text(f"method: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    one_line(IronclipError, lambda: open_run(run), "is no configuration")
    assert not mark.exists()


def test_a_caller_may_name_code_and_the_record_says_which(mark: Path) -> None:
    assert testtime.called({"generator": "trap:spring"})["generator"].__name__ == "spring"
    assert testtime.worded(testtime.called({"generator": "trap:spring", "views": 2})) == {"generator": "trap:spring", "views": 2}


@pytest.mark.parametrize(
    "name", ["hf-hub:someone/else", "./weights.pt", "/etc/passwd", "ViT-B-32@/etc/passwd", "ViT-B-32/no-tag"]
)
def test_a_saved_folder_does_not_choose_what_is_opened_or_fetched(
    name: str, saved: dict[str, bytes], mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "load", pytest.fail)
    monkeypatch.setattr(loading, "resolve", pytest.fail)
    folder = altered(saved, mark.parent / "saved", backbone=name)
    one_line(CheckpointError, lambda: load_pretrained(folder), "name it yourself with --backbone")
    assert load_pretrained(folder, backbone=tiny_backbone(layers=1)).classes
    for other in (
        {"weights": name}, {"classes": name}, {"method": "capt", "options": {"guide": name}},
        {"method": "zero_shot+tapt", "options": {"tapt.source": name}}, {"method": "saft", "options": {"descriptions": name}},
        {"method": "zero_shot+et3", "options": {"et3.proxy": name}}, {"attack": {"name": "transfer", "source": name}},
    ):  # fmt: skip
        folder = altered(saved, mark.parent / "saved", **other)
        one_line(
            CheckpointError, lambda folder=folder: load_pretrained(folder, backbone=tiny_backbone(layers=1)), "may not choose"
        )


def test_every_option_that_could_name_a_file_or_a_model_is_known_as_one() -> None:
    """Options whose default is a text or None are words of a list, prompts or numbers, unless they stand in the two lists."""
    harmless = {
        "align", "align_norm", "align_reduction", "align_to", "align_tokens", "align_weight", "alignment", "alpha",
        "alpha_mode", "activation", "ce_on", "code_losses", "depth", "design", "direction", "distance", "ensemble",
        "first_prompt", "fusion", "gate", "gradient", "init", "inner", "kl", "kl_reduction", "layer_weights", "length",
        "layers", "lora_alpha", "mix", "normalisation", "over", "pad", "position", "pre_norm", "prompt", "prompts",
        "base", "constant_names", "encoder", "filter", "loss_weights", "m_high", "m_low", "m_of", "negation", "objective",
        "prior", "radii", "refiner_decay", "strength", "target", "tv_map", "tv_tau", "units", "reconstruct", "reduce",
        "rollout", "share", "sides", "start", "strategy", "targets", "templates", "term",
        "text_depth", "text_length", "text_tune", "tga_norm", "tokens_at", "tune", "tv_norm", "tv_resolution",
        "variant", "vote",
    }  # fmt: skip
    for room in (defenses, testtime):
        for method in room.NAMES:
            for option, default in room.options(method).items():
                number = isinstance(default, int | float | bool)
                assert number or option in (*outside.CODE, *outside.BACKBONES, *harmless), (method, option)
    assert set(testtime.CODE) == set(outside.CODE)


def test_pickles_in_weights_files_do_not_run(mark: Path) -> None:
    with zipfile.ZipFile("openai.pt", "w") as archive:
        archive.writestr("m/code/__torch__.py", "def __setstate__(self, state): pass")
        archive.writestr("m/data.pkl", pickle.dumps({"visual.conv1.weight": Trap(mark)}))
    torch.save({"visual.conv1.weight": Trap(mark)}, "state.pt")
    torch.save({"visual.conv1.weight": Trap(mark)}, "old.pt", _use_new_zipfile_serialization=False)
    Path("bare.pt").write_bytes(pickle.dumps(Trap(mark)))
    for name in ("openai.pt", "state.pt", "old.pt", "bare.pt"):
        one_line(CheckpointError, lambda name=name: load(f"ViT-B-32@{name}", activation="gelu"), name)
        assert not mark.exists()


def test_torchscript_is_read_and_never_run(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.jit.load", pytest.fail)
    with zipfile.ZipFile("huge.pt", "w") as archive:
        archive.writestr("m/code/__torch__.py", "")
        archive.writestr("m/data.pkl", b"cos\nsystem\n(Vtouch it-ran\ntR.")
    one_line(CheckpointError, lambda: load("ViT-B-32@huge.pt", activation="gelu"), "'os.system', which is no tensor")
    assert not mark.exists()


def test_tensors_that_repeat_their_numbers_are_refused_before_they_fill_the_memory(mark: Path) -> None:
    torch.save({"visual.conv1.weight": torch.zeros(1).expand(1 << 40), "text_projection": torch.zeros(1)}, "wide.pt")
    one_line(CheckpointError, lambda: load("ViT-B-32@wide.pt", activation="gelu"), "repeats its numbers")


def onnx_with(change: Callable[..., None]) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    facts = Facts(
        method="zero_shot", classes=("a", "b"), templates=("a {}",), backbone={"name": "mini"}, resolution=2, preprocessing="none"
    )
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    weights = numpy_helper.from_array(torch.ones(12, 2).numpy(), "weights")
    nodes = [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["logits"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [images], [logits], [weights]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    model.metadata_props.add(key=KEY, value=json.dumps(sealed(facts)))
    change(model, helper)
    path = Path("m.onnx")
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path, load_external_data=False).graph.name == "g"
    return path


def custom(model, helper) -> None:
    model.graph.node[0].domain = "com.evil"


def function(model, helper) -> None:
    model.functions.add(name="f", domain="com.evil")


def loop(model, helper) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "inner", [], [])))


def elsewhere(model, helper) -> None:
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = 1
    weights.external_data.add(key="location", value="../../etc/passwd")


def hidden(model, helper) -> None:
    """The same inside an operator's attribute."""
    elsewhere(model, helper)
    constant = helper.make_node("Constant", [], ["other"])
    constant.attribute.append(helper.make_attribute("value", model.graph.initializer[0]))
    model.graph.node.append(constant)
    del model.graph.initializer[:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (custom, "is of 'com.evil' and no standard one"), (function, "functions of its own"), (loop, "a graph of its own"),
        (elsewhere, "lie in other files"), (hidden, "lie in other files"),
    ],
)  # fmt: skip
def test_an_onnx_file_that_reaches_outside_itself_is_refused_before_the_runtime(
    change: Callable[..., None], words: str, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "InferenceSession", pytest.fail)
    file = onnx_with(change)
    one_line(CheckpointError, lambda: open_exported(file), words)


def test_an_onnx_file_whose_facts_lie_about_its_graph_is_refused(mark: Path) -> None:
    pytest.importorskip("onnxruntime")

    def lie(model, helper) -> None:
        facts = json.loads(model.metadata_props[0].value)
        model.metadata_props[0].value = json.dumps(sealed(facts | {"resolution": 4096}))

    assert open_exported(onnx_with(lambda *_: None))(torch.ones(3, 3, 2, 2)).tolist() == [[12.0, 12.0]] * 3
    file = onnx_with(lie)
    one_line(CheckpointError, lambda: open_exported(file), "does not take images of 4096 pixels")


def altered(saved: dict[str, bytes], folder: Path, **config: object) -> Path:
    """The saved folder with these values in its configuration, and tensors of the method that it then names."""
    folder.mkdir(exist_ok=True)
    for name, content in saved.items():
        (folder / name).write_bytes(content)
    values = json.loads((folder / KEY).read_text())
    values["config"] |= config
    (folder / KEY).write_text(json.dumps(sealed(values)))
    return folder


def test_hundreds_of_thousands_of_empty_tensors_are_refused_before_they_are_read(tmp_path: Path) -> None:
    head = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(300_000)}
    content = json.dumps(head).encode()
    (tmp_path / "learned.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    for read in (load_learned, load_state, read_checkpoint):
        one_line(CheckpointError, lambda read=read: read(tmp_path / "learned.safetensors"), "is no model's file: its head says")


def test_sound_tensors_of_another_size_are_one_line(saved: dict[str, bytes], tmp_path: Path) -> None:
    folder = altered(saved, tmp_path / "model", method="apt", options={"length": 3})
    learned = load_learned(folder / "learned.safetensors")
    save_learned(folder / "learned.safetensors", replace(learned, method="apt", tensors={"context": torch.ones(2, 2)}))
    one_line(CheckpointError, lambda: load_pretrained(folder, backbone=tiny_backbone()), "learned.safetensors does not fit apt")
