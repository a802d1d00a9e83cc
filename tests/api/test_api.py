"""The facade: light to import, the same run as the command line's, and models that say what they cannot do."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ironclip
from ironclip.attacks import PGD
from ironclip.core.errors import UsageError
from ironclip.serve.export import probes

QUICK = {"preset": "apt/quick", "epochs": 1, "length": 2, "lr": 0.1, "warmup_epochs": 0, "attack.steps": 1}


@pytest.fixture(scope="module")
def backbone():
    return ironclip.load("mini")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    return ironclip.dataset("shapes", shots=1)


def test_importing_costs_no_torch() -> None:
    code = "import sys, ironclip; assert 'evaluate' in dir(ironclip); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_resolves_and_no_other() -> None:
    for name in ironclip._API:
        assert getattr(ironclip, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        ironclip.fitt  # noqa: B018


def test_fit_evaluate_save_and_load_again(backbone, data, tmp_path: Path) -> None:
    robust = ironclip.fit("apt", backbone, data, **QUICK)
    images = probes(3, 64)
    with torch.no_grad():
        expected = robust(images)
    assert expected.shape == (3, len(data.classes))

    first = ironclip.evaluate(robust, attack="pgd", eps="1/255", steps=1, limit=4).records[0]
    assert (first.method, first.images, first.shots) == ("apt", 4, 1)
    assert first.command.startswith("ironclip evaluate runs/apt-shapes-mini-1shot-seed1")
    assert robust.records() == [first]
    assert ironclip.fit("apt", backbone, data, **QUICK).records() == [first]  # the same run, opened

    robust.save_pretrained("saved")
    again = ironclip.load_classifier("saved", backbone=backbone)
    with torch.no_grad():
        assert torch.equal(again(images), expected)
    second = ironclip.evaluate(again, data, attack="pgd", eps="1/255", steps=1, limit=4).records[0]
    assert second.samples_sha256 == first.samples_sha256
    with pytest.raises(UsageError, match="give `data`"):
        ironclip.evaluate(again)
    with pytest.raises(UsageError, match="export works on a model that was trained here"):
        again.export("m.pt2")
    again.save_pretrained("twice")
    for file in Path("saved").iterdir():
        assert Path("twice", file.name).read_bytes() == file.read_bytes()

    opened = ironclip.load_classifier(robust.run.path)
    with torch.no_grad():
        assert torch.equal(opened(images), expected)


def test_models_take_attacks_and_test_time_methods(backbone, data) -> None:
    plain = ironclip.zero_shot(backbone, data)
    images = probes(2, 64)
    labels = plain(images).argmax(1)
    adversarial = PGD(eps=4 / 255, steps=3)(plain, images, labels)
    assert (adversarial - images).abs().max() <= 4 / 255 + 1e-6
    assert (plain(adversarial).softmax(1) - plain(images).softmax(1)).gather(1, labels[:, None]).max() < 0
    guarded = ironclip.test_time("ttc", plain, steps=1)
    assert guarded.method == "zero_shot+ttc"
    result = ironclip.evaluate([plain, guarded], attack="pgd", eps="1/255", steps=1, limit=2)
    assert [(record.method, record.threat.knowledge) for record in result.records] == [
        ("zero_shot", "white-box"), ("zero_shot+ttc", "static"), ("zero_shot+ttc", "adaptive")
    ]  # fmt: skip
    assert "zero\\_shot+ttc" in result.table()
    assert "toprule" in result.table("latex")
    with pytest.raises(UsageError, match="which a fixed graph cannot hold"):
        guarded.export("m.pt2")


@pytest.mark.parametrize(("method", "settings"), [("apd7", {}), ("apt", {"lenght": 2}), ("apt", {"epochs": 0})])
def test_wrong_names_and_values_are_refused(backbone, data, method: str, settings: dict) -> None:
    with pytest.raises(UsageError):
        ironclip.fit(method, backbone, data, **settings)
    assert not Path("runs").exists()
