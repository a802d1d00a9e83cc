"""Processes of torchrun and of srun, by what each of them finds in its environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ironclip.core.errors import UsageError
from ironclip.loops.started import first_host, group, started

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "MASTER_ADDR": "head",
            "MASTER_PORT": "29500"}  # fmt: skip
JOB = {"SLURM_JOB_ID": "123456", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
       "SLURM_NODELIST": "gpu[03-04]"}  # fmt: skip
STEP = JOB | {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_NODEID": "1",
              "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[03-04]"}  # fmt: skip


def test_a_process_of_torchrun_is_one_of_several():
    assert started(TORCHRUN) == 4
    assert group(TORCHRUN | {"HOME": "/"}) == TORCHRUN
    assert group(TORCHRUN | {"WORLD_SIZE": "1"}) == group({}) == {}
    assert started({"WORLD_SIZE": "4"}) == 1, "some clusters set it for other reasons"


def test_a_task_of_srun_is_one_of_several_and_knows_its_place():
    expected = {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"}
    found = group(STEP)
    assert {name: found[name] for name in expected} == expected
    assert found["MASTER_ADDR"] == "gpu03"
    assert (
        found["MASTER_PORT"]
        == group(STEP | {"SLURM_PROCID": "0"})["MASTER_PORT"]
        != group(STEP | {"SLURM_JOB_ID": "7"})["MASTER_PORT"]
    )
    assert group(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"})["MASTER_ADDR"] == "10.0.0.1"


def test_a_batch_script_is_one_process_although_its_job_has_several_tasks():
    assert started(JOB) == 1
    assert group(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) == {}


def test_torchrun_inside_srun_counts_and_not_srun():
    assert group(STEP | TORCHRUN) == TORCHRUN


def test_different_numbers_of_tasks_on_nodes_are_refused():
    with pytest.raises(UsageError, match=r"as many processes on each node \(--ntasks-per-node\); it started 4,3"):
        group(STEP | {"SLURM_STEP_TASKS_PER_NODE": "4,3"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("one", "one"), ("a,b", "a"), ("gpu[03-05,9],login1", "gpu03"), ("gpu[7]", "gpu7"), ("r1n[2,4]-ib", "r1n2-ib")],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.slow
def test_two_tasks_of_srun_train_one_run(tmp_path):
    """As srun starts them, without Slurm."""
    pytest.importorskip("lightning_fabric", reason="needs the extra dist")
    root = Path(__file__).parents[2]
    train = ["train", "apt", "--data", "shapes", "--shots", "1", "--out", str(tmp_path / "run"), "--device", "cpu", "--json"]
    train += ["--set", "epochs=1", "--set", "attack.steps=1"]
    step = STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0",
                   "SLURM_STEP_NODELIST": "127.0.0.1"}  # fmt: skip
    environment = os.environ | step | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "ironclip", *train], env=environment | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        )
        for rank in "01"
    ]
    assert [task.wait() for task in tasks] == [0, 0]
    assert (tmp_path / "run" / "learned.safetensors").exists()
