"""The verbs of grids: plan, run, status."""

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ironclip.cli.common import Device, Json, app, clock, emit, pick_device
from ironclip.cli.terminal import command, say, show_table, table, tell
from ironclip.core.devices import check_device
from ironclip.core.errors import UsageError
from ironclip.core.processes import check_workers
from ironclip.grid.located import located
from ironclip.loops.started import started

grid_app = typer.Typer(help="Many runs from one file: a whole table with one command, resumable.", no_args_is_help=True)
app.add_typer(grid_app, name="grid")
Mini = Annotated[
    bool, typer.Option("--miniature", help="The same cells on embedded defaults, in seconds each: shows that all run.")
]
File = Annotated[Path, typer.Argument(help="A grid file (YAML), or the name of one of `ironclip list grids`.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the runs; default: runs/<name of the grid>.")]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Cells with these settings, such as method=apt,nap or seed=1,shots=16; measures: attack=pgd."),
]
First = Annotated[int | None, typer.Option("--limit-cells", help="Only so many cells, from the top of the file.")]


def _choice(small: bool, only: list[str] | None, first: int | None) -> dict[str, Any]:
    """Keywords of `plan`."""
    if first is not None and first < 1:
        raise UsageError(f"--limit-cells is at least 1; got {first}")
    return {"small": small, "only": only or [], "first": first}


def _plan(file: Path, choice: dict[str, Any]) -> Any:
    from ironclip.grid.plan import plan

    return plan(located(file), **choice)


def _folder(grid: Any, given: Path | None) -> Path:
    return given or Path("runs") / grid.grid.name


@grid_app.command("plan")
def plan_grid(
    file: File, out_folder: Out = None, only: Only = None, first: First = None, small: Mini = False, as_json: Json = False
) -> None:
    """List the cells, what they cost, and which are done; runs nothing."""
    from ironclip.grid.cost import estimate, sizes_of

    made = _plan(file, _choice(small, only, first))
    costs, left = estimate(made, _folder(made, out_folder))
    if as_json:
        emit({"name": made.grid.name, "cells": [cost.as_dict() for cost in costs], "seconds_left": left})
        return
    columns = ["run", "variant", "image passes", "state"]
    cells = [[cost.cell.name, cost.cell.variant, f"{cost.passes:,.0f}", cost.state] for cost in costs]
    show_table(table(f"{made.grid.name}: {len(costs)} cells", columns, cells))
    sizes = sizes_of(made)
    if absent := [name for name, size in sizes.items() if not size.here and size.test]:
        say(f"not here, so counted by their published sizes: {', '.join(absent)} (`ironclip data list` says how to get them)")
    if strange := [name for name, size in sizes.items() if not size.here and not size.test]:
        say(f"neither here nor of a known size, so not counted: {', '.join(strange)}")
    open_cells = sum(cost.state not in ("done", "failed") for cost in costs)
    pace = f"about {clock(left)} for one worker" if left is not None else "no pace known before the first cell is done"
    say(f"{open_cells} of {len(costs)} cells to do, {pace}")


@grid_app.command("run")
def run_grid(
    file: File,
    out_folder: Out = None,
    executor: Annotated[str, typer.Option(help="local (processes), ray or slurm.")] = "local",
    workers: Annotated[int, typer.Option(help="Cells at a time; with slurm: tasks of the array.")] = 1,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster; default: start one here.")] = None,
    gpus: Annotated[
        float, typer.Option("--gpus-per-cell", help="With ray, where the cluster has GPUs: 0.25 lets four cells share one.")
    ] = 1.0,
    batch: Annotated[
        list[str] | None,
        typer.Option("--slurm", help="With slurm, for sbatch: partition=gpu, time=600 (minutes), gres=gpu:1 ... (extra: slurm)."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes that train one run together, on GPUs one per device (extra: dist); default: that of the file, or 1."
        ),
    ] = None,
    only: Only = None,
    first: First = None,
    hours: Annotated[float | None, typer.Option(help="Begin no cell after this many hours; the same command goes on.")] = None,
    small: Mini = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train and measure all cells. The same command goes on after an interruption. Exit status 1 if a cell failed."""
    if executor not in ("local", "ray", "slurm"):
        raise UsageError(f"--executor is local, ray or slurm; got {executor!r}")
    if batch and executor != "slurm":
        raise UsageError("--slurm goes with --executor slurm alone")
    if executor != "ray" and (given := [*["--address"] * (address is not None), *["--gpus-per-cell"] * (gpus != 1.0)]):
        raise UsageError(f"{' and '.join(given)} go{'' if len(given) > 1 else 'es'} with --executor ray alone")
    check_workers(workers, here=executor == "local")
    if processes is not None and not 1 <= processes <= 1024:
        raise UsageError(f"--processes is a number from 1 to 1024; got {processes}")
    if hours is not None and not hours > 0:
        raise UsageError(f"--hours is more than 0; got {hours}")
    check_device(device)
    from ironclip.grid.state import Place

    choice = _choice(small, only, first) | {"processes": processes}
    file = located(file)
    made = _plan(file, choice)
    folder = _folder(made, out_folder)
    if executor == "ray":
        from ironclip.grid import cluster

        cluster.check(address, gpus, made.grid.processes)
    elif executor == "slurm":
        from ironclip.grid import slurm

        asked = slurm.check(batch or [])
    else:
        device = pick_device(device)
    if made.grid.processes > 1:
        from ironclip.loops.parallel import check_extra

        check_extra()
        if started() > 1:
            raise UsageError(
                "with --processes a grid starts the processes of each run; start it without torchrun, or one task of srun"
            )
    for cell in made.cells:
        Place(folder, cell).reopen()
    done = sum(Place(folder, cell).settled for cell in made.cells)
    start = time.monotonic()

    def heard(event: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if not as_json:
            text = f"{done}/{len(made.cells)} {event['cell']}: {event['state']}"
            tell(f"{text} ({event['reason'] or clock(event['seconds'])})")

    from ironclip.grid.job import GridJob

    until = None if hours is None else time.time() + 3600 * hours
    job = GridJob(file, made, folder, workers, device, choice, until, heard)
    if executor == "ray":
        if not as_json:
            tell("starting Ray" if address is None else f"connecting to Ray at {address}")
        cluster.run_ray(job, address=address, gpus=gpus)
    elif executor == "slurm":
        tasks = slurm.submit(job, asked)
        if tasks and not as_json:
            many = f"an array of {len(tasks)}" if len(tasks) > 1 else "one task"
            tell(f"{many} for Slurm; who interrupts this leaves it at work, and the same command goes on watching")
        slurm.watch(job, tasks)
    else:
        from ironclip.grid.execute import run_local

        run_local(job)
    failed = _status(made, folder, as_json)
    if not as_json:
        say(f"took {clock(time.monotonic() - start)}; next: {command('report', folder, '--matrix')}")
    raise typer.Exit(1 if failed else 0)


@grid_app.command("status")
def status_grid(
    file: File, out_folder: Out = None, only: Only = None, first: First = None, small: Mini = False, as_json: Json = False
) -> None:
    """Count the cells that are done, begun, open and failed; failed ones with their reason."""
    made = _plan(file, _choice(small, only, first))
    _status(made, _folder(made, out_folder), as_json)


def _status(made: Any, folder: Path, as_json: bool) -> int:
    from ironclip.grid.state import Place

    states = {cell.name: Place(folder, cell).read() | {"state": Place(folder, cell).state} for cell in made.cells}
    counts = Counter(state["state"] for state in states.values())
    failed = {name: state["reason"] for name, state in states.items() if state["state"] == "failed"}
    if as_json:
        emit({"name": made.grid.name, "out": str(folder), "cells": len(states), "states": counts, "failed": failed})
        return len(failed)
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    say(f"{made.grid.name}: {len(states)} cells, {summary}; {folder}")
    for name, reason in failed.items():
        say(f"  failed: {name}: {reason}")
    return len(failed)
