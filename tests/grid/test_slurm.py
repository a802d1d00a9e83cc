"""Grids as an array job: submitit's stand-ins for Slurm, a task that is told to leave, and what is handed to sbatch."""

import os
import random
import signal
import sys
import time

import pytest
from marked import MARK, marked
from outcomes import outcomes

from ironclip.core.errors import RunError, UsageError
from ironclip.grid import slurm
from ironclip.grid.job import GridJob
from ironclip.grid.plan import plan
from ironclip.grid.slurm import NOTICE, TIME, Task, check, submit, watch
from ironclip.grid.state import Place
from ironclip.grid.work import work

KILLS = int(os.environ.get("IRONCLIP_KILLS", "5"))
submitit = pytest.importorskip("submitit", reason="needs the extra slurm")
GRID = """
name: array
defaults: {backbone: mini, dataset: shapes, eps: 4/255, augment: none, set: {epochs: 1, attack.steps: 1}}
runs: [{method: zero_shot}]
evaluate: [{attacks: [fgsm], limit: 6, batch_size: 2}]
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path, plan(path), tmp_path / "out"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_task_does_the_grid(grid):
    """By submitit's debug executor, which leaves its own log files open."""
    path, made, out = grid
    events = []
    job = GridJob(path, made, out, callback=events.append)
    watch(job, submit(job, {}, "debug"), pause=0)
    assert [event["state"] for event in events] == ["done"]


def test_a_task_that_is_told_to_leave_finishes_its_batch_and_is_queued_again(grid, monkeypatch):
    """As in a job: submitit's handler is there before the task begins, and gets the signal once the batch is on the disk."""
    path, made, out = grid
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "7")
    seen = []

    class Queued(Exception):
        pass

    def requeue(number, frame):
        seen.append(len(next(out.glob("*/samples.jsonl")).read_text().splitlines()))
        raise Queued

    from ironclip.records.folder import EvaluationFolder

    append = EvaluationFolder.append

    def told(self, samples):
        append(self, samples)
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, requeue)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(EvaluationFolder, "append", told)
            with pytest.raises(Queued):
                Task(str(path), str(out), "cpu")()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [2], "one batch, whole"
    place = Place(out, made.cells[0])
    assert place.state == "open"
    again = Task(str(path), str(out), "cpu").checkpoint()
    again.result()
    assert place.state == "done"


class Array:
    """What submitit is asked to do."""

    def __init__(self, *given, **options):
        self.asked, self.jobs = [], []
        Array.last = self

    def update_parameters(self, **options):
        self.asked.append(options)

    def submit_array(self, tasks):
        self.jobs = [Job(f"1_{number}") for number in range(len(tasks))]
        self.tasks = tasks
        return self.jobs


class Job:
    states: dict = {}  # noqa: RUF012

    def __init__(self, job_id):
        self.job_id = job_id

    def done(self):
        return True

    def stderr(self):
        return "much\nslurmstepd: error: out of memory\n"


def test_tasks_that_are_still_queued_are_not_submitted_again(grid, monkeypatch):
    path, made, out = grid
    monkeypatch.setattr(submitit, "AutoExecutor", Array)
    states = {"1_0": "PENDING", "1_1": "CANCELLED by 0", "1_2": "RUNNING"}
    job = GridJob(path, made, out, workers=3)
    tasks = submit(job, {"partition": "gpu", "time": 600})
    with pytest.raises(RunError, match=r"all 3 tasks have ended and cells are left \(slurmstepd: error: out of memory\)"):
        watch(job, tasks, pause=0)
    assert Array.last.asked == [{"slurm_job_name": "array", "slurm_partition": "gpu", "slurm_time": 600}]

    class Known(Job):
        def __init__(self, folder, job_id):
            super().__init__(job_id)
            self.state = states[job_id]

    monkeypatch.setattr(submitit, "SlurmJob", Known)
    assert len(submit(job, {})) == 3
    assert len(Array.last.tasks) == 1


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Stand-ins for the commands of Slurm, which is not here; they are given what sbatch says and does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(sbatch: str) -> None:
        for name, body in (("srun", ""), ("sacct", ""), ("sbatch", sbatch)):
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)

    return write


def test_an_array_is_what_sbatch_is_asked_for(grid, commands, tmp_path):
    path, made, out = grid
    commands(f'cp "$1" {tmp_path}/asked.sh; echo "Submitted batch job 12"')
    jobs = submit(GridJob(path, made, out, workers=3), check(["gres=gpu:1", "time=600"]))
    assert [job.job_id for job in jobs] == ["12_0", "12_1", "12_2"]
    lines = (tmp_path / "asked.sh").read_text().splitlines()
    for line in ("array=0-2%3", "gres=gpu:1", "time=600", f"signal=USR2@{NOTICE}", "open-mode=append", "job-name=array"):
        assert f"#SBATCH --{line}" in lines


def test_what_sbatch_refuses_is_one_line_and_leaves_nothing(grid, commands, capfd):
    path, made, out = grid
    commands("echo 'sbatch: error: invalid partition specified: x' >&2; echo 'sbatch: error: failed' >&2; exit 1")
    said = "^Slurm refused the array: sbatch: error: invalid partition specified: x sbatch: error: failed$"
    with pytest.raises(UsageError, match=said):
        submit(GridJob(path, made, out / "deep", workers=2), check(["partition=x"]))
    assert capfd.readouterr().err == ""
    assert not out.exists()


def test_every_key_is_one_that_submitit_knows(commands, grid, tmp_path):
    commands("exit 1")
    given = {**dict.fromkeys(slurm.NUMBERS, 400), **dict.fromkeys(slurm.TEXTS, "x"), "gpus_per_task": 1}
    asked = slurm._executor(tmp_path, grid[1], given, "slurm")._executor.parameters
    assert set(given) <= set(asked)


def test_without_a_time_a_task_has_more_than_it_is_told_before_its_end():
    """Its own default, five minutes, is what a task is told before its end."""
    assert TIME * 60 > NOTICE


def test_cells_that_are_all_done_need_no_task(grid, commands):
    path, made, out = grid
    commands("exit 1")
    work(made, out)
    assert submit(GridJob(path, made, out), check([])) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit does not wait for what it starts
def test_two_processes_of_the_local_executor_do_a_grid_as_one_does(grid, tmp_path, monkeypatch):
    path, made, out = grid
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(each for each in sys.path if each))
    job = GridJob(path, made, out, workers=2)
    watch(job, submit(job, {}, "local"), pause=0.2)
    work(made, tmp_path / "calm")
    assert outcomes(out) == outcomes(tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="finds its processes in /proc")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_tasks_killed_at_random_leave_the_records_that_nobody_disturbed(tmp_path, monkeypatch):
    """Tasks and what starts them are killed by submitit's local executor; the command is given again, also while tasks work."""
    path, chance, killed, turn = tmp_path / "grid.yaml", random.Random(0), 0, 0
    path.write_text(GRID.replace("runs:", "shard_above: 8\nruns:").replace("limit: 6", "limit: 48").replace("fgsm", "pgd"))
    work(plan(path), tmp_path / "calm")
    undisturbed, mark = outcomes(tmp_path / "calm"), f"slurm-{os.getpid()}"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(each for each in sys.path if each))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(MARK, mark)
    while killed < KILLS:
        turn += 1
        job = GridJob(path, plan(path), tmp_path / f"wild{turn}", workers=2)
        tasks = submit(job, {}, "local")
        while not job.settled:
            time.sleep(chance.uniform(2, 8))
            if killed < KILLS and (found := [pid for pid, _ in marked(mark) if pid != os.getpid()]):
                os.kill(chance.choice(found), signal.SIGKILL)
                killed += 1
            if all(each.done() for each in tasks) or (chance.random() < 0.1 and len(tasks) < 4):
                tasks += submit(job, {}, "local")
        print(f"turn {turn}: {killed} processes killed", flush=True)
        assert [Place(job.out, cell).state for cell in job.plan.cells] == ["done"] * len(job.plan.cells)
        assert outcomes(job.out) == undisturbed
