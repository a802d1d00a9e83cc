"""Bars of tqdm: where somebody looks and no callback listens, and nowhere else."""

import sys
from types import SimpleNamespace

import pytest

from ironclip.api import progress


def training(epoch: int, step: int) -> dict:
    return {"event": "step", "epoch": epoch, "epochs": 2, "step": step, "steps": 3, "terms": {"adv_ce": 1.5}}


def test_nobody_looks_at_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert not progress.seen()
    with progress.watched("train", None) as tell:
        assert tell is None


def test_a_terminal_and_a_notebook_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.seen()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.seen()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress.seen()


def test_a_callback_takes_the_place_of_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "seen", lambda: True)
    heard: list[dict] = []
    with progress.watched("train", heard.append) as tell:
        tell({"event": "step"})
    assert heard == [{"event": "step"}]


def test_the_bar_counts_steps_of_all_epochs_and_says_the_loss(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(progress, "seen", lambda: True)
    with progress.watched("train apt", None) as bar:
        bar(training(2, 1))  # a run that continues in its second epoch
        assert (bar.bar.n, bar.bar.total, bar.bar.initial) == (4, 6, 3)
        bar({"event": "epoch", "epoch": 2})
        bar(training(2, 3))
    shown = capsys.readouterr().err
    assert "train apt" in shown
    assert "6/6" in shown
    assert "adv_ce=1.500" in shown


def test_the_bar_of_an_evaluation_says_the_accuracies_so_far(capsys) -> None:
    bar = progress.Bar("evaluate")
    bar({"event": "attack", "attack": "pgd"})
    bar({"event": "batch", "done": 4, "total": 8, "clean": 0.75, "robust": 0.5})
    bar.close()
    assert "clean=75.0%, robust=50.0%" in capsys.readouterr().err


def test_an_audit_has_a_bar_for_each_part(capsys) -> None:
    bar = progress.Bar("audit x")
    bar({"event": "batch", "done": 8, "total": 8, "clean": 0.75, "robust": 0.5, "what": "1/255"})
    bar({"event": "check", "done": 3, "total": 19, "what": "diagnostics"})
    bar.close()
    shown = capsys.readouterr().err
    assert "audit x 1/255: 100%" in shown
    assert "audit x diagnostics" in shown
    assert "3/19" in shown
