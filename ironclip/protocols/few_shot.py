"""Adversarial few-shot classification: train a defence on K images per class; `measure` evaluates it.

Source: CoOp's protocol with the inner attack of each method (TreeLLi/APT, lionel-w2/FAP): last epoch, no model selection,
the whole test split unless a limit is asked for.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ironclip import attacks
from ironclip.backbones.compiled import check_compiler, compiling
from ironclip.core.errors import UsageError
from ironclip.core.precision import check_precision
from ironclip.core.types import Attack
from ironclip.data import Epoch, TrainSet
from ironclip.loops.parallel import Parallel
from ironclip.loops.training import State, fit
from ironclip.protocols.collapse import sight
from ironclip.protocols.config import RunConfig, configure
from ironclip.protocols.experiment import Experiment, open_configured, open_experiment, take_learned
from ironclip.protocols.places import found_again, places
from ironclip.records.folder import WAIT, RunFolder
from ironclip.records.last import point
from ironclip.records.learned import Learned

Callback = Callable[[dict[str, Any]], None]


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    root: Path = Path("runs"),
    device: str = "cpu",
    callback: Callback | None = None,
    experiment: Experiment | None = None,
    as_last: bool = False,
    parallel: Parallel | None = None,
    compile: bool = False,
) -> RunFolder:
    """Train, or continue an interrupted run; returns the trained run. A finished run is only opened.

    Args:
        out: the run's folder; default: named after the configuration, in `root`.
        callback: receives the events of `training.fit`, and {"event": "done"} if there was nothing left to do.
        as_last: `last` beside the run names it from now on.
        parallel: this process as one of several that train the run together; only the first one writes.
        compile: let torch compile the blocks of the image tower (`backbones.compiled`); the same is learned, up to rounding.
    """
    say = callback or (lambda event: None)
    training_attack(config)  # before anything is loaded or written
    experiment = experiment or open_experiment(config, device=device)
    check_precision(config.precision, experiment.backbone.device.type)
    check_divisible(experiment, parallel is not None)
    device_used = experiment.backbone.device
    if compile:
        check_compiler(device_used)
    first = parallel is None or parallel.rank == 0
    run = RunFolder.create(config.as_dict(), out=out, root=root)
    if as_last and first:
        point(run.path)
    with run.lock(wait=0.0 if _learns(experiment) and parallel is None else WAIT) if first else nullcontext():
        if run.status in ("trained", "evaluated"):
            say({"event": "done", "run": str(run.path)})
            return run
        if first:
            run.save_environment(f"{device_used}, compiled blocks" if compile else str(device_used))
            run.save_places(places(config))
        with compiling(experiment.backbone) if compile else nullcontext():
            _fit(experiment, run, say, parallel)
        if first:
            run.save_learned(
                Learned(
                    tensors=experiment.defense.learned(),
                    base_sha256=experiment.backbone.spec.sha256,
                    method=config.method,
                    options=dict(config.options),
                    classes=experiment.dataset.classes,
                )
            )
    return run


def check_divisible(experiment: Experiment, several: bool) -> None:
    """UsageError where several processes would learn something else than one."""
    if several and not experiment.defense.divisible:
        method = experiment.config.method
        raise UsageError(f"{method} looks across the images of a batch, so it is trained in one process; leave out --processes")


def divided(experiment: Experiment) -> bool:
    """Whether several processes can train it together: something is learned, and its loss treats each image by itself."""
    return _learns(experiment) and experiment.defense.divisible


def _fit(experiment: Experiment, run: RunFolder, say: Callback, parallel: Parallel | None) -> None:
    config, defense = experiment.config, experiment.defense
    if not _learns(experiment):
        return
    resolution = experiment.backbone.spec.resolution
    data = TrainSet(experiment.dataset, resolution=resolution)
    schedule = config.schedule
    passes = defense.passes(schedule, data.steps(schedule.batch_size))
    attack = training_attack(config)
    clock = time.perf_counter()
    first = parallel is None or parallel.rank == 0

    def tell(event: dict[str, Any]) -> None:
        nonlocal clock
        if event["event"] == "epoch" and first:
            now = time.perf_counter()
            run.log({**event, "seconds": now - clock})
            clock = now
        say(event)

    def keep(state: State) -> None:
        run.save_state({"epoch": state.epoch, "tensors": dict(state.tensors), "flags": state.flags})

    def batches(epoch: int) -> Epoch:
        numbers = range((epoch - 1) * passes + 1, epoch * passes + 1)
        return Epoch(data, numbers, config.seed, schedule.batch_size, config.augment, config.crop_area)

    defense.prepare(experiment.backbone, data.batches(0, config.seed, schedule.batch_size, augment="none"))
    saved = run.load_state()
    if parallel is not None:
        parallel.wait()  # all have read where the training stands before the first one goes on
    flags = fit(
        defense,
        experiment.backbone,
        batches,
        attack,
        schedule=schedule,
        seed=config.seed,
        resume=State(**saved) if saved is not None else None,
        save=keep if first else None,
        callback=tell,
        precision=config.precision,
        parallel=parallel,
    )
    if "collapse" in flags and first:
        plain = data.batches(0, config.seed, schedule.batch_size, augment="none")
        run.log({"event": "collapse", "flags": [*flags, sight(experiment.base, plain)]})


def _learns(experiment: Experiment) -> bool:
    return any(True for _ in experiment.defense.parameters())


def training_attack(config: RunConfig) -> Attack:
    """The inner attack at the run's norm and eps, in the mode the caller trains in; UsageError where it lacks this norm."""
    options = config.attack.options
    if config.attack.relative_step is not None:
        options.setdefault("step_size", config.attack.relative_step * config.eps or None)
    if config.norm != "linf":
        options["norm"] = config.norm
    return attacks.build(config.attack.name, eps=config.eps, **options)


def open_run(
    path: Path, *, device: str = "cpu", experiment: Experiment | None = None, weights: Path | str | None = None
) -> tuple[RunFolder, Experiment]:
    """A trained run with everything loaded again (or the learned tensors into `experiment`, which is of the same configuration).

    Args:
        weights: where the file with the weights of its backbone lies now, if it was moved.

    Raises:
        RunError: no run there, or not trained yet. DataError: its images are gone; says where they were and what to do.
        CheckpointError: other base weights than it was trained on.
    """
    run = RunFolder.open(path)
    if run.status in ("new", "training"):
        raise UsageError(f"{run.path} is not trained yet ({run.status}); finish it with the same `ironclip train` command")
    if experiment is None:
        config = configure(run.config)
        dataset = open_configured(found_again(config, run.places, run.path))
        experiment = open_experiment(config, device=device, dataset=dataset, weights=weights)
    learned = run.load_learned(experiment.backbone.spec.sha256)
    take_learned(experiment.defense, learned, run.path)
    return run, experiment
