"""The audit from Python: of a model of ours, and of any function, with what it finds shown in a notebook."""

from pathlib import Path

import pytest
import torch

import ironclip
from ironclip.core.errors import UsageError

QUICK = {"eps": "1/255", "limit": 4, "diagnostics": 0, "attack": "pgd", "steps": 1}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ironclip.Model:
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRONCLIP_CACHE", str(place / "cache"))
        return ironclip.zero_shot(ironclip.load("mini"), ironclip.dataset("shapes", shots=1), root=place)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IRONCLIP_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_model_is_audited_on_its_own_data_and_shows_what_was_found(plain, here: Path) -> None:
    found = ironclip.run_audit(plain, require=["clean>=0"], **QUICK)
    assert found.report.target == "zero_shot"
    assert found.folder.parent == Path("audits")
    assert "robust" not in repr(found)
    assert "\n" not in repr(found)
    assert "requirement clean&gt;=0: met" in found._repr_html_()
    assert found.page("audit.html").read_text().lower().startswith("<!doctype html>")
    with pytest.raises(UsageError, match="knows its data"):
        ironclip.run_audit(plain, "shapes", **QUICK)


def test_a_function_whose_gradients_are_masked_is_found_out(plain, here: Path) -> None:
    class Rounded(torch.nn.Module):
        resolution, base = 64, plain

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return plain((8 * images).round() / 8)

    found = ironclip.run_audit(Rounded(), ironclip.dataset("shapes", shots=1), **QUICK)
    assert found.report.target == "Rounded"
    assert "all-zero" in str(found)
    again = ironclip.run_audit(Rounded(), "shapes", **QUICK)
    assert again.folder != found.folder, "its gradients may be others while its logits are the same"


def test_what_cannot_be_audited_is_one_line(plain, here: Path) -> None:
    for arguments, more, complaint in (
        ((lambda images: images,), {}, "needs data"),
        ((7, "shapes"), {}, "got int"),
        ((plain,), {"limit": 0}, "limit is a number of images"),
        ((plain,), {"diagnostic_steps": 0}, "diagnostic_steps is a whole number"),
        ((plain,), {"require": ["robust>=0.4@8/255"]}, "not audited"),
        ((lambda images: images.mean((2, 3)), "shapes"), {"resolution": 8}, "logits"),
    ):
        with pytest.raises(UsageError, match=complaint):
            ironclip.run_audit(*arguments, **QUICK | more)
    assert not (here / "audits").exists()
