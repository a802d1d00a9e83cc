"""Doing cells. Every worker goes through the whole plan and takes cells that no other worker holds, so there is no master.

Cells are independent and idempotent: a killed worker's cell goes on where it stood, in whichever worker takes it next. A measure
of more images than the file's `shard_above` is done in shards, and other workers help with them.
"""

import math
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ironclip.backbones import ClipBackbone
from ironclip.core.errors import IronclipError, RunBusy
from ironclip.core.files import write_text
from ironclip.core.signals import Leaving, leave_if_asked
from ironclip.data import Dataset, open_dataset
from ironclip.grid.check import built
from ironclip.grid.file import GridFile, Measure
from ironclip.grid.plan import Cell, Plan
from ironclip.grid.state import Place
from ironclip.protocols.config import RunConfig
from ironclip.protocols.distributed import train_together
from ironclip.protocols.experiment import Experiment, open_experiment, transferred, with_test_time
from ironclip.protocols.few_shot import divided, open_run, train
from ironclip.protocols.frozen import Frozen, load_frozen
from ironclip.protocols.measure import evaluate_run
from ironclip.protocols.repeat import evaluation_command
from ironclip.protocols.shards import evaluate_shards
from ironclip.protocols.suites import open_suite
from ironclip.records.folder import RunFolder
from ironclip.records.shards import missing
from ironclip.records.share import Share

Callback = Callable[[dict[str, Any]], None]
PAUSE = 1.0


def work(
    plan: Plan,
    out: Path,
    *,
    device: str = "cpu",
    callback: Callback | None = None,
    pause: float = PAUSE,
    until: float | None = None,
) -> None:
    """Do cells until each is done, failed, or given up; waits for those that others hold.

    Args:
        until: no cell is begun after this time (`time.time`).
        callback: gets {"event": "cell", "cell", "state", "reason", "seconds"}.
    """
    say = callback or (lambda event: None)
    while True:
        held = False
        for cell in plan.cells:
            place = Place(out, cell)
            if place.settled:
                continue
            leave_if_asked()
            if until is not None and time.time() >= until:
                return
            try:
                with place.claim():
                    if not place.settled and place.begin():
                        _attempt(place, out, device, plan.grid)
            except RunBusy:
                held = True
                with suppress(IronclipError):  # what is wrong with the cell, its owner finds out
                    join(cell, out, device=device, shard_above=plan.grid.shard_above)
                continue
            say({"event": "cell", "cell": cell.name, **place.read()})
        leave_if_asked()
        if not held:
            return
        time.sleep(pause)


def _attempt(place: Place, out: Path, device: str, grid: GridFile) -> None:
    """One try; the state is right afterwards, however it ends (unless the process is killed)."""
    try:
        run_cell(place.cell, out, device=device, shard_above=grid.shard_above, processes=grid.processes)
    except RunBusy:
        place.release()
        raise
    except (KeyboardInterrupt, Leaving):
        place.release()
        raise
    except IronclipError as error:
        place.fail(str(error))
    except Exception as error:  # a cell's fault must not stop the others
        place.fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": "))
        write_text(place.folder / "traceback.txt", traceback.format_exc())
    else:
        place.finish()


def run_cell(cell: Cell, out: Path, *, device: str = "cpu", shard_above: int | None = None, processes: int = 1) -> RunFolder:
    """Train the run of a cell and measure it; what is there already is not done again.

    Args:
        shard_above: measures of more images are done in shards of at most so many, in which others can `join`; None: none is.
        processes: that train the run together, where its method can be trained so.
    """
    experiment = _experiment(cell.config, device)
    if processes > 1 and divided(experiment) and RunFolder.create(cell.config.as_dict(), root=out).status in ("new", "training"):
        run = train_together(cell.config, processes=processes, device=device, root=out)
    else:
        run = train(cell.config, root=out, device=device, experiment=experiment)
    run, experiment = open_run(run.path, experiment=experiment)
    for measure in cell.measures:
        for eps in measure.eps:
            _measure(run, experiment, measure, eps, shard_above=shard_above)
    return run


def join(cell: Cell, out: Path, *, device: str = "cpu", shard_above: int | None = None) -> bool:
    """Do shards of the evaluation that another worker has begun in this cell; whether there was one."""
    path = out / cell.name
    if shard_above is None or not any(map(missing, RunFolder(path).evaluations())):
        return False
    run, experiment = open_run(path, experiment=_experiment(cell.config, device))
    for measure in cell.measures:
        for eps in measure.eps:
            _measure(run, experiment, measure, eps, shard_above=shard_above, helping=True)
    return True


def helpers(cell: Cell, shard_above: int | None) -> int:
    """How many workers can be busy in this cell at once: as many as its largest measure has shards."""
    if shard_above is None:
        return 1
    return max([1, *(_divided(_open(cell.config), measure, shard_above) for measure in cell.measures if measure.suite is None)])


def _divided(dataset: Dataset, measure: Measure, shard_above: int | None) -> int:
    """Into how many shards a measure is divided on these data."""
    many = len(dataset.items(measure.split))
    return math.ceil(min(many, measure.limit or many) / shard_above) if shard_above else 1


def _measure(
    run: RunFolder, experiment: Experiment, measure: Measure, eps: float, *, shard_above: int | None = None, helping: bool = False
) -> None:
    attacks, adapts = built(measure, eps)
    moved = [experiment]
    if measure.suite is not None:
        opened, absent = open_suite(measure.suite)
        if absent and not helping:
            run.log({"event": "suite", "suite": measure.suite, "missing": absent})
        moved = [transferred(experiment, name, opened=dataset, suite=measure.suite) for name, dataset in opened.items()]
    elif measure.data is not None or measure.subset is not None:
        moved = [transferred(experiment, measure.data, measure.subset or "all")]
    for each in moved:
        if measure.test_time is not None:
            each = with_test_time(each, measure.test_time, adapts)
        under: dict[str, Any] = {"norm": measure.norm, "knowledge": measure.knowledge, "source": measure.source}
        under |= {"split": measure.split, "limit": measure.limit, "batch_size": measure.at_once}
        extra: dict[str, Any] = {"distortion": measure.distortion, "targeted": measure.targeted}
        command = evaluation_command(
            run, each, measure.attacks, eps, changes=measure.changes, seed=measure.seed, **under, **extra
        )
        under |= {"eps": eps, "keep_examples": 4, "command": command}
        if (of := _divided(each.dataset, measure, shard_above)) > 1:
            evaluate_shards(run, each, attacks, Share(None, of), joining=helping, **under)
        if not helping:
            evaluate_run(run, each, attacks, **extra, **under)


def _experiment(config: RunConfig, device: str) -> Experiment:
    return open_experiment(config, device=device, backbone=_backbone(Frozen.of(config), device), dataset=_open(config))


def _open(config: RunConfig) -> Dataset:
    templates = config.templates if isinstance(config.templates, str) else tuple(config.templates)
    return _dataset(config.dataset, config.classes, templates, config.layout)


@lru_cache(maxsize=2)
def _backbone(frozen: Frozen, device: str) -> ClipBackbone:
    return load_frozen(frozen, device=device)


@lru_cache(maxsize=4)
def _dataset(name: str, classes: str | None, templates: str | tuple[str, ...], layout: str) -> Dataset:
    texts = list(templates) if isinstance(templates, tuple) else templates
    return open_dataset(name, classes_file=classes, templates=texts, layout=layout)
