"""Doing cells. Every worker walks through the whole plan and takes what nobody holds, so workers need no master.

Cells are independent and idempotent: a killed worker's cell goes on where it stood, in whichever worker takes it next.
"""

import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from ironclip.backbones import ClipBackbone
from ironclip.core.errors import IronclipError, RunBusy
from ironclip.core.files import write_text
from ironclip.data import Dataset, open_dataset
from ironclip.grid.check import built
from ironclip.grid.file import Measure
from ironclip.grid.plan import Cell, Plan
from ironclip.grid.state import Place
from ironclip.protocols.config import RunConfig
from ironclip.protocols.experiment import Experiment, open_experiment, transferred, with_test_time
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.frozen import Frozen, load_frozen
from ironclip.protocols.measure import evaluate
from ironclip.protocols.repeat import evaluation
from ironclip.protocols.suites import open_suite
from ironclip.records.folder import RunFolder

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
            if until is not None and time.time() >= until:
                return
            try:
                with place.claim():
                    if not place.settled and place.begin():
                        _attempt(place, out, device)
            except RunBusy:
                held = True
                continue
            say({"event": "cell", "cell": cell.name, **place.read()})
        if not held:
            return
        time.sleep(pause)


def _attempt(place: Place, out: Path, device: str) -> None:
    """One try; the state is right afterwards, however it ends (unless the process is killed)."""
    try:
        run_cell(place.cell, out, device=device)
    except RunBusy:
        place.release()
        raise
    except KeyboardInterrupt:
        place.release()
        raise
    except IronclipError as error:
        place.fail(str(error))
    except Exception as error:  # a cell's fault must not stop the others
        place.fail(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": "))
        write_text(place.folder / "traceback.txt", traceback.format_exc())
    else:
        place.finish()


def run_cell(cell: Cell, out: Path, *, device: str = "cpu") -> RunFolder:
    """Train the run of a cell and measure it; what is there already is not done again."""
    experiment = _experiment(cell.config, device)
    run = train(cell.config, root=out, device=device, experiment=experiment)
    run, experiment = open_run(run.path, experiment=experiment)
    for measure in cell.measures:
        for eps in measure.eps:
            _measure(run, experiment, measure, eps)
    return run


def _measure(run: RunFolder, experiment: Experiment, measure: Measure, eps: float) -> None:
    attacks, adapts = built(measure, eps)
    if measure.suite is not None:
        opened, missing = open_suite(measure.suite)
        if missing:
            run.log({"event": "suite", "suite": measure.suite, "missing": missing})
        for name, dataset in opened.items():
            moved = transferred(experiment, name, opened=dataset, suite=measure.suite)
            _evaluate(run, moved, measure, eps, attacks, adapts)
        return
    if measure.data is not None or measure.subset is not None:
        experiment = transferred(experiment, measure.data, measure.subset or "all")
    _evaluate(run, experiment, measure, eps, attacks, adapts)


def _evaluate(
    run: RunFolder, experiment: Experiment, measure: Measure, eps: float, attacks: dict[str, Any], adapts: dict[str, Any]
) -> None:
    if measure.test_time is not None:
        experiment = with_test_time(experiment, measure.test_time, adapts)
    evaluate(
        run,
        experiment,
        attacks,
        eps=eps,
        norm=measure.norm,
        knowledge=measure.knowledge,
        source=measure.source,
        split=measure.split,
        limit=measure.limit,
        batch_size=measure.at_once,
        keep_examples=4,
        distortion=measure.distortion,
        targeted=measure.targeted,
        command=evaluation(
            run, experiment, measure.attacks, eps, norm=measure.norm,
            changes=measure.changes, seed=measure.seed, knowledge=measure.knowledge,
            source=measure.source, split=measure.split, limit=measure.limit, distortion=measure.distortion,
            targeted=measure.targeted, batch_size=measure.at_once,
        ),
    )  # fmt: skip


def _experiment(config: RunConfig, device: str) -> Experiment:
    templates = config.templates if isinstance(config.templates, str) else tuple(config.templates)
    return open_experiment(
        config,
        device=device,
        backbone=_backbone(Frozen.of(config), device),
        dataset=_dataset(config.dataset, config.classes, templates, config.layout),
    )


@lru_cache(maxsize=2)
def _backbone(frozen: Frozen, device: str) -> ClipBackbone:
    return load_frozen(frozen, device=device)


@lru_cache(maxsize=4)
def _dataset(name: str, classes: str | None, templates: str | tuple[str, ...], layout: str) -> Dataset:
    texts = list(templates) if isinstance(templates, tuple) else templates
    return open_dataset(name, classes_file=classes, templates=texts, layout=layout)
