"""`doctor --gpu` in miniature, on a CPU: everything runs, and a device that computes something else is found."""

import pytest
import torch

from ironclip import attacks, defenses, testtime
from ironclip.protocols import device_check, machine
from ironclip.protocols.device_check import check_device
from ironclip.report.device_page import device_page


@pytest.fixture
def few(monkeypatch):
    """One method and two attacks of each kind, so that it takes seconds."""
    monkeypatch.setattr(defenses, "NAMES", ("nap",))
    monkeypatch.setattr(testtime, "NAMES", ("mta",))
    monkeypatch.setattr(attacks, "CATALOGUE", {name: attacks.CATALOGUE[name] for name in ("pgd", "feature")})


def test_a_cpu_agrees_with_itself_and_its_speed_is_measured(few):
    report = check_device("cpu", quick=True)
    assert [check["name"] for check in report["checks"] if not check["ok"]] == []
    assert report["good"] == len(report["checks"]) == 5
    assert {row["precision"] for row in report["speeds"]} == {"float32", "tf32", "bf16"}
    measured = [row for row in report["speeds"] if row["precision"] == "float32"]
    assert all(row["images_per_second"] > 0 and row["flops_per_second"] > 0 for row in measured)
    page = device_page(report)
    assert "training step of nap" in page
    assert page.count("<table>") == 3


def test_a_device_that_computes_something_else_is_found(few, monkeypatch):
    monkeypatch.setattr(device_check, "_speeds", lambda *_: [])
    make = device_check.tiny_backbone
    made = iter([make(), make(seed=7), *[make() for _ in range(3)]])
    monkeypatch.setattr(device_check, "tiny_backbone", lambda: next(made))
    bad = {check["name"] for check in check_device("cpu", quick=True)["checks"] if not check["ok"]}
    assert {"training step of nap", "answer of mta"} <= bad


def test_a_job_that_fails_is_a_line_and_no_traceback(few, monkeypatch):
    monkeypatch.setattr(device_check, "_speeds", lambda *_: [])

    def broken(*args: object) -> None:
        raise RuntimeError("CUDA error: no kernel image\nmore")

    monkeypatch.setattr(device_check, "_same_answer", broken)
    (check,) = [check for check in check_device("cpu", quick=True)["checks"] if not check["ok"]]
    assert (check["name"], check["text"]) == ("answer of mta", "RuntimeError: CUDA error: no kernel image")


def test_operations_of_products_are_counted_in_both_directions():
    def work() -> None:
        left = torch.rand(3, 4, requires_grad=True)
        (left @ torch.rand(4, 5)).sum().backward()

    assert device_check._operations(work) == 2 * 3 * 4 * 5 * 2


@pytest.mark.slow
def test_every_method_and_every_attack_is_checked():
    report = check_device("cpu", quick=True)
    assert report["good"] == len(report["checks"]) == 1 + len(defenses.NAMES) + len(testtime.NAMES) + len(attacks.CATALOGUE) - 1


def test_the_machine_says_what_is_missing_for_what(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "installed", lambda package: "" if package == "pillow-heif" else "1.0")
    facts = machine.facts()
    assert facts["missing"] == ["pillow-heif: HEIC photos (pip install 'ironclip[heif]')"]
    assert facts["caches"].keys() == {"images", "hub", "open_clip"}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    assert machine.size_of(tmp_path) == 5
    assert machine.size_of(tmp_path / "none") == 0
