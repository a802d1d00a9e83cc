"""Processes that `torchrun` or `srun` started for one command: their number, and the rank of this one. Imports no torch."""

import os
import re
from collections.abc import Mapping

from ironclip.core.errors import UsageError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NODELIST")
"""Variables of a Slurm step. A batch script itself also has SLURM_NTASKS and SLURM_PROCID, although it is one process, so these
are not used."""
PORTS = range(12_000, 32_000)
"""Port at which the processes of a Slurm job meet; below the ports that Linux assigns by itself."""


def started(environment: Mapping[str, str] = os.environ) -> int:
    """Number of processes started together for this command; 1: it was started alone.

    Raises:
        UsageError: `srun` has started different numbers of them on its nodes.
    """
    return int(group(environment).get("WORLD_SIZE", "1"))


def group(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which torch's processes find each other (RANK, WORLD_SIZE, ...), from what `torchrun` or `srun` says;
    none for a process that was started alone.

    Raises:
        UsageError: `srun` has started different numbers of processes on its nodes.
    """
    if environment.keys() >= set(TORCHRUN):
        found = (*TORCHRUN, "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
        return {name: environment[name] for name in found if name in environment} if int(environment["WORLD_SIZE"]) > 1 else {}
    if not environment.keys() >= set(SRUN) or int(environment["SLURM_STEP_NUM_TASKS"]) < 2:
        return {}
    each = environment.get("SLURM_STEP_TASKS_PER_NODE", environment["SLURM_STEP_NUM_TASKS"])
    same = re.fullmatch(r"(\d+)(\(x\d+\))?", each)
    if same is None:
        raise UsageError(f"srun must start as many processes on each node (--ntasks-per-node); it started {each}")
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": same[1],
        "GROUP_RANK": environment["SLURM_NODEID"],
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(environment["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(PORTS[int(environment.get("SLURM_JOB_ID", "0")) % len(PORTS)]),
    }


def first_host(nodes: str) -> str:
    """The first name of Slurm's list of nodes: "gpu03" of "gpu[03-05,9],login1"."""
    name, number, rest = re.fullmatch(r"([^,\[]+)(?:\[([^-,\]]+)[^\]]*\]([^,\[]*))?.*", nodes).groups("")  # type: ignore[union-attr]
    return f"{name}{number}{rest}"
