"""Exported files compute what the run computes, say what they are, and are refused where they are not ours."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from reporting import record
from serve_helpers import trained
from torch import Tensor

from ironclip import defenses
from ironclip.backbones import assemble
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.protocols.experiment import Experiment, with_test_time
from ironclip.serve import export as exporting
from ironclip.serve.export import TOLERANCE, Exported, export, probes
from ironclip.serve.exported import open_exported
from ironclip.serve.facts import KEY
from ironclip.serve.model import open_model

RECORD = record()


def answers(classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier(images)


@pytest.fixture(scope="module")
def nap() -> Experiment:
    return trained("nap")


@pytest.fixture(scope="module")
def files(nap: Experiment, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    return {suffix: export(nap, folder / f"m{suffix}", records=[RECORD]).path for suffix in (".pt2", ".onnx")}


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_file_computes_the_defence_for_any_batch(nap: Experiment, files: dict[str, Path], suffix: str) -> None:
    opened = open_exported(files[suffix], trust=True)
    plain = assemble(nap.backbone, nap.dataset.classes)
    for count in (1, 2, 5):
        images = probes(count, 32).flip(0)
        expected = answers(nap.classifier, images)
        assert (opened(images) - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1)
        assert (answers(plain, images) - expected).abs().max() > 0.1
    assert opened(torch.empty(0, 3, 32, 32)).shape == (0, len(nap.dataset.classes))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_facts_travel_with_the_file(nap: Experiment, files: dict[str, Path], suffix: str) -> None:
    opened = open_exported(files[suffix], trust=True)
    facts = opened.facts
    assert opened.classes == facts.classes == nap.dataset.classes
    assert (facts.method, facts.backbone.sha256, facts.resolution) == ("nap", "tiny", 32)
    assert "{ctx}" in facts.templates[0]
    assert facts.training is not None
    assert facts.training.shots == 1
    (measured,) = facts.measured
    assert measured.robust == RECORD.robust
    assert measured.threat == "white-box linf 4/255 at 64 px"
    assert measured.attacks == ("pgd (100 steps)",)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_service_opens_files(nap: Experiment, files: dict[str, Path], suffix: str) -> None:
    served = open_model(files[suffix], trust=True)
    images = probes(2, 32)
    expected = answers(nap.classifier, images)
    assert (served.functions["defended"](images) - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp_min(1)
    assert (served.classes, served.resolution, served.differentiable) == (nap.dataset.classes, 32, False)
    facts = json.loads(json.dumps(served.facts))
    assert facts["method"] == "nap"
    (measured,) = facts["measured"]
    assert f"robust ≤ {RECORD.robust} (white-box linf 4/255 at 64 px; pgd (100 steps); n={RECORD.images})" in measured


@pytest.mark.parametrize("method", ["apt+advmask", "defeat", "avp_pixel"])
def test_masks_shields_and_frames_are_inside(method: str, tmp_path: Path) -> None:
    experiment = trained(method)
    made = export(experiment, tmp_path / "m.pt2")
    images = probes(3, 32)
    expected = answers(experiment.classifier, images)
    assert (open_exported(made.path, trust=True)(images) - expected).abs().max() <= TOLERANCE
    assert (answers(assemble(experiment.backbone, experiment.dataset.classes), images) - expected).abs().max() > 0.1
    assert made.relative <= TOLERANCE
    assert f"{made.logits:.1e}" in str(made)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("method", [*defenses.NAMES, "nap+advmask"])
def test_every_method_exports(method: str, suffix: str, tmp_path: Path) -> None:
    assert export(trained(method), tmp_path / f"m{suffix}").relative <= TOLERANCE


def test_the_backbone_is_left_as_it_was(tmp_path: Path) -> None:
    experiment = trained("advmask")
    before = {name: tensor.clone() for name, tensor in experiment.backbone.state_dict().items()}
    fixed = exporting.Fixed(experiment.base)
    images = probes(2, 32)
    torch.testing.assert_close(answers(fixed, images), answers(experiment.classifier, images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in experiment.backbone.state_dict().items())
    assert not {t.data_ptr() for t in fixed.parameters()} & {t.data_ptr() for t in experiment.backbone.parameters()}


def test_a_file_that_differs_is_not_kept(nap: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.pt2"
    file.write_bytes(b"before")
    write = exporting.write_pt2

    def wrong(fixed, facts, path):
        fixed.text_features.mul_(1.001)
        write(fixed, facts, path)

    monkeypatch.setattr(exporting, "write_pt2", wrong)
    with pytest.raises(CheckpointError, match="differs from the run"):
        export(nap, file)
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_test_time_methods_and_other_endings_are_refused(nap: Experiment, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ttc adapts to every image .* a fixed graph cannot hold"):
        export(with_test_time(nap, "ttc"), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"got 'm\.pkl'"):
        export(nap, tmp_path / "m.pkl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [torch.rand(1, 3, 31, 31), torch.rand(3, 32, 32), torch.rand(1, 3, 32, 32).double()])
def test_images_of_another_shape_or_type_are_refused(files: dict[str, Path], bad: Tensor) -> None:
    with pytest.raises(UsageError, match="takes float32 images"):
        open_exported(files[".onnx"])(bad)


def test_no_file_of_ours_holds_a_pickle(files: dict[str, Path]) -> None:
    with zipfile.ZipFile(files[".pt2"]) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not name.endswith(".pt") or b"torch" not in content or len(content) < 2000, name
            if name.endswith("_config.json"):
                assert b'"use_pickle": true' not in content


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_damaged_missing_and_foreign_files_give_one_line(files: dict[str, Path], suffix: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_exported(tmp_path / f"none{suffix}", trust=True)
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(files[suffix].read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged") as caught:
        open_exported(damaged, trust=True)
    assert "\n" not in str(caught.value)


def test_files_without_facts_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    import onnx

    model = onnx.load(files[".onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match=f"holds no {KEY}"):
        open_exported(tmp_path / "foreign.onnx")
    with zipfile.ZipFile(tmp_path / "foreign.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
    with pytest.raises(CheckpointError, match=f"holds no {KEY}"):
        open_exported(tmp_path / "foreign.pt2", trust=True)


@pytest.mark.parametrize("taken", [False, True], ids=["of another content", "taken away"])
def test_facts_of_a_file_are_under_a_checksum(files: dict[str, Path], tmp_path: Path, taken: bool) -> None:
    import onnx

    model = onnx.load(files[".onnx"])
    facts = json.loads(model.metadata_props[0].value)
    facts["classes"].reverse()
    if taken:
        del facts["sha256"]
    model.metadata_props[0].value = json.dumps(facts)
    onnx.save(model, tmp_path / "edited.onnx")
    with pytest.raises(CheckpointError, match=r"facts are not to be believed.*sha256.*export it again"):
        open_exported(tmp_path / "edited.onnx")


def test_the_difference_of_a_file_is_measured_against_its_largest_logit() -> None:
    made = [Exported(Path("file.onnx"), None, 2e-3, 0.0, scale).relative for scale in (20.0, 0.5)]  # type: ignore[arg-type]
    assert made == pytest.approx([1e-4, 2e-3])
