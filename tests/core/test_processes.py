"""What each of several workers on one machine gets of it."""

import os

import pytest

from ironclip.core.processes import worker_environment


@pytest.mark.parametrize(
    ("number", "each", "seen"), [(0, 1, "0"), (3, 1, "5"), (4, 1, "0"), (0, 2, "0,2"), (1, 2, "3,5"), (2, 2, "0,2")]
)
def test_each_worker_sees_gpus_of_its_own_in_turn(monkeypatch, number, each, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5")
    assert worker_environment(number, 4, "cuda", each)["CUDA_VISIBLE_DEVICES"] == seen
    assert worker_environment(number, 4, "cpu", each)["CUDA_VISIBLE_DEVICES"] == "0,2,3,5", "left alone"


def test_all_gpus_are_shared_out_where_nobody_has_chosen_some(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert [worker_environment(number, 8, "cuda")["CUDA_VISIBLE_DEVICES"] for number in range(8)] == list("01234567")


def test_threads_are_shared_out_unless_the_user_has_said(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_environment(0, 4, "cpu")["OMP_NUM_THREADS"] == "4"
    assert worker_environment(0, 4, "cpu", 2)["OMP_NUM_THREADS"] == "2"
    assert worker_environment(0, 40, "cpu")["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert worker_environment(0, 4, "cpu")["OMP_NUM_THREADS"] == "3"
