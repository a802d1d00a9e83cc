"""Fault drill: a grid of fifty cells whose driver and workers are killed at random moments, on both executors."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from marked import MARK, marked
from outcomes import outcomes

from ironclip.grid.plan import plan
from ironclip.grid.work import work

CELLS, KILLS = 50, 10
GRID = """
name: drill
defaults: {backbone: mini, dataset: shapes, eps: 4/255, augment: none, set: {epochs: 1, attack.steps: 1}}
runs:
  - {method: zero_shot}
  - {method: apt, shots: 1, seed: SEEDS}
evaluate:
  - {attacks: [fgsm], eps: 4/255, limit: 3}
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """(grid file, outcomes of the grid that nobody disturbed)."""
    folder = tmp_path_factory.mktemp("calm")
    path = folder / "drill.yaml"
    path.write_text(GRID.replace("SEEDS", str(list(range(1, CELLS)))), encoding="utf-8")
    work(plan(path), folder / "out")
    found = outcomes(folder / "out")
    assert len(found) == CELLS
    return path, found


def processes(mark: str) -> list[int]:
    """Driver and workers of this drill; Ray's own servers, which are not ours to break, are not among them."""
    ours = (b"ray::_task", b"ray::IDLE")
    return [pid for pid, said in marked(mark) if said.startswith(ours) or (b"ironclip" in said and b"/ray/" not in said)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in /proc")
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_grid_killed_at_random_ends_as_one_that_nobody_disturbed(executor, calm, tmp_path):
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra cluster")
    path, undisturbed = calm
    out, mark = tmp_path / "wild", f"{executor}-{os.getpid()}"
    command = [sys.executable, "-c", "from ironclip.cli import main; main()", "grid", "run", str(path), "--out", str(out)]
    command += ["--device", "cpu", "--workers", "2", "--executor", executor]
    environment = os.environ | {MARK: mark, "OMP_NUM_THREADS": "1"}
    chance, kills = random.Random(0), {"driver": 0, "worker": 0}
    driver = subprocess.Popen(command, env=environment)
    while driver.poll() is None:
        time.sleep(chance.uniform(3, 9))
        workers = [pid for pid in processes(mark) if pid != driver.pid]
        if sum(kills.values()) < KILLS and driver.poll() is None:
            victim = "driver" if chance.random() < 0.3 else "worker"
            if victim == "worker" and not workers:  # Ray takes its time to start them
                continue
            pid = driver.pid if victim == "driver" else chance.choice(workers)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it was done
                continue
            kills[victim] += 1
            if victim == "driver":
                driver.wait()
                driver = subprocess.Popen(command, env=environment)
    print(executor, "killed", kills)
    assert driver.wait() == 0
    assert min(kills.values()) >= 1
    assert outcomes(out) == undisturbed
    states = [json.loads(file.read_text())["state"] for file in (out / ".grid").glob("*/state.json")]
    assert states == ["done"] * CELLS
