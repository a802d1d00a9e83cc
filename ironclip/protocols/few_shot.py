"""Adversarial few-shot classification: train a defence on K images a class, evaluate it clean and attacked.

Source: CoOp's protocol with the inner attack of each method (TreeLLi/APT, lionel-w2/FAP): last epoch, no model selection,
the whole test split unless a limit is asked for.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ironclip import attacks, defenses, testtime
from ironclip.backbones import AdaptedClassifier, ClipBackbone, assemble
from ironclip.backbones.loading import load
from ironclip.data import Dataset, EvalSet, TrainSet, base_to_new, few_shot, open_dataset
from ironclip.errors import UsageError
from ironclip.evaluation import evaluate_into, settings
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig, configure
from ironclip.runs.folder import RunFolder
from ironclip.runs.learned import Learned
from ironclip.runs.pictures import Example
from ironclip.runs.records import BackboneFacts, Cost, DataFacts, Record, Setup, Timing
from ironclip.tensors import generator
from ironclip.threat import Knowledge, Threat, format_eps
from ironclip.training import State, fit
from ironclip.types import Adaptation, Attack, Batch, Classifier, Defense, TestTime

Callback = Callable[[dict[str, Any]], None]
PREPROCESSING = "shorter side bicubic antialiased, centre crop"
INIT = 1  # keeps the draw of starting values apart from other uses of the seed


@dataclass(frozen=True)
class Experiment:
    """A configuration with what it names loaded: data with the shots drawn, frozen backbone, defence, test-time method.

    `trained_on` names the data the defence was trained on where they are others.
    """

    config: RunConfig
    dataset: Dataset
    backbone: ClipBackbone
    defense: Defense
    test_time: TestTime | None = None
    trained_on: str = ""

    @property
    def base(self) -> AdaptedClassifier:
        """The trained classifier, without a test-time method."""
        with torch.no_grad():
            return assemble(self.backbone, self.dataset.classes, self.defense.adaptation(self.backbone, self.dataset.classes))

    @property
    def classifier(self) -> Classifier:
        return self.base if self.test_time is None else self.test_time(self.base)


def open_experiment(
    config: RunConfig, *, device: str = "cpu", backbone: ClipBackbone | None = None, dataset: Dataset | None = None
) -> Experiment:
    """Load what the configuration names; fails before any work is done.

    Raises:
        UsageError, DataError, CheckpointError: a name, an option, a split or a file that cannot be used.
    """
    if dataset is None:
        dataset = open_dataset(config.dataset, classes_file=config.classes, templates=config.templates)
    trained, above = methods.split(config.method)
    options, adapts = methods.divide(config.method, config.options)
    parts = [defenses.method(name) for name in trained.split("+")]
    if any(part.learns for part in parts) and config.shots is not None:
        dataset = few_shot(dataset, config.shots, config.split_seed, strict=config.strict_shots)
    if config.subset != "all":
        dataset = base_to_new(dataset)[0 if config.subset == "base" else 1]
    backbone = backbone or load(config.backbone, weights=config.weights, device=device)
    for key in defenses.options(trained):
        part, _, option = key.rpartition(".")
        if option == "templates" and (part or trained) != "hep":
            options.setdefault(key, dataset.templates)
    draw = generator(config.seed, INIT)
    defense = defenses.build(trained, backbone, dataset.classes, generator=draw, given=options)
    test_time = testtime.build(above, adapts) if above else None
    return Experiment(config, dataset, backbone, defense.to(backbone.device), test_time)


def with_test_time(experiment: Experiment, name: str, given: Mapping[str, Any] | None = None) -> Experiment:
    """The same experiment with a test-time method on top; its configuration names it, nothing is trained again.

    Raises:
        UsageError: it has one already, or the name or an option is unknown.
    """
    config = experiment.config
    if experiment.test_time is not None:
        raise UsageError(f"{config.method} holds a test-time method already; leave out {name!r}")
    method = testtime.build(name, given)
    options = config.options if "+" in config.method else {f"{config.method}.{k}": v for k, v in config.options.items()}
    options = options | {f"{name}.{k}": v for k, v in (given or {}).items()}
    config = config.model_copy(update={"method": f"{config.method}+{name}", "options": options})
    return replace(experiment, config=config, test_time=method)


def transferred(experiment: Experiment, name: str) -> Experiment:
    """What was learned, on other data: with the classes and hand-written prompts of that data, and nothing trained again.

    Raises:
        UsageError: no such data, or a defence that fits the classes alone for which it was learned.
    """
    config = experiment.config.model_copy(update={"dataset": name, "classes": None, "subset": "all"})
    dataset = open_dataset(name, templates=config.templates)
    # Built for its own classes, so that a defence which depends on them notices; the prompts are those of the other data.
    own = replace(experiment.dataset, templates=dataset.templates)
    moved = open_experiment(config.model_copy(update={"shots": None}), backbone=experiment.backbone, dataset=own)
    moved.defense.load_learned(experiment.defense.learned())
    with torch.no_grad():
        moved.defense.adaptation(experiment.backbone, dataset.classes)
    return replace(moved, config=config, dataset=dataset, trained_on=experiment.dataset.name)


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    root: Path = Path("runs"),
    device: str = "cpu",
    callback: Callback | None = None,
    experiment: Experiment | None = None,
) -> RunFolder:
    """The trained run; nothing to do where it is finished, goes on where it was interrupted.

    Args:
        out: the run's folder; default: named after the configuration, in `root`.
        callback: receives the events of `training.fit`, and {"event": "done"} if there was nothing left to do.
    """
    say = callback or (lambda event: None)
    experiment = experiment or open_experiment(config, device=device)
    run = RunFolder.create(config.as_dict(), out=out, root=root)
    with run.lock():
        if run.status in ("trained", "evaluated"):
            say({"event": "done", "run": str(run.path)})
            return run
        run.save_environment(str(experiment.backbone.device))
        _fit(experiment, run, say)
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


def _fit(experiment: Experiment, run: RunFolder, say: Callback) -> None:
    config, defense = experiment.config, experiment.defense
    if not any(True for _ in defense.parameters()):
        return
    resolution = experiment.backbone.spec.resolution
    data = TrainSet(experiment.dataset, resolution=resolution)
    schedule = config.schedule
    passes = defense.passes(schedule, data.steps(schedule.batch_size))
    steps = passes * data.steps(schedule.batch_size)
    attack = training_attack(config)
    clock = time.perf_counter()

    def tell(event: dict[str, Any]) -> None:
        nonlocal clock
        if event["event"] == "epoch":
            now = time.perf_counter()
            run.log({**event, "seconds": now - clock})
            clock = now
        say({**event, "steps": steps})

    def batches(epoch: int) -> Iterator[Batch]:
        for number in range((epoch - 1) * passes + 1, epoch * passes + 1):
            yield from data.batches(number, config.seed, schedule.batch_size, augment=config.augment)
    defense.prepare(experiment.backbone, data.batches(0, config.seed, schedule.batch_size, augment="none"))
    saved = run.load_state()
    fit(
        defense,
        experiment.backbone,
        batches,
        attack,
        schedule=schedule,
        seed=config.seed,
        resume=State(**saved) if saved is not None else None,
        save=lambda state: run.save_state({"epoch": state.epoch, "tensors": dict(state.tensors), "flags": state.flags}),
        callback=tell,
    )


def training_attack(config: RunConfig) -> Attack:
    """The inner attack at the run's eps, in the mode the caller trains in."""
    options = config.attack.options
    if config.attack.relative_step is not None:
        options.setdefault("step_size", config.attack.relative_step * config.eps or None)
    return attacks.build(config.attack.name, eps=config.eps, **options)


def open_run(path: Path, *, device: str = "cpu", experiment: Experiment | None = None) -> tuple[RunFolder, Experiment]:
    """A trained run with everything loaded again (or the learned tensors into `experiment`, which is of the same configuration).

    Raises:
        RunError: no run there, or not trained yet. CheckpointError: other base weights than it was trained on.
    """
    run = RunFolder.open(path)
    if run.status in ("new", "training"):
        raise UsageError(f"{run.path} is not trained yet ({run.status}); finish it with the same `ironclip train` command")
    experiment = experiment or open_experiment(configure(run.config), device=device)
    learned = run.load_learned(experiment.backbone.spec.sha256)
    experiment.defense.load_learned(learned.tensors)
    return run, experiment


def _surrogates(experiment: Experiment, classifier: Classifier, knowledge: Knowledge) -> tuple[Classifier, ...]:
    """Which classifiers an attack of this knowledge is handed besides (static: instead of) the evaluated one."""
    above = experiment.test_time
    if knowledge == "static" and above is None:
        templates = Adaptation(templates=experiment.dataset.templates)
        return (assemble(experiment.backbone, experiment.dataset.classes, templates),)
    if above is None:
        return experiment.defense.surrogates(classifier) if knowledge == "adaptive" else ()
    below: AdaptedClassifier = classifier.base  # type: ignore[attr-defined]
    below.name = "base"  # type: ignore[assignment]
    if knowledge == "static":
        return (below,)
    if knowledge == "adaptive":
        return (*above.surrogates(classifier), below, *experiment.defense.surrogates(below))
    return ()


def evaluate(
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    *,
    eps: float,
    knowledge: Knowledge = "white-box",
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 100,
    keep_examples: int = 0,
    command: str = "",
    callback: Callback | None = None,
) -> tuple[Record, list[Example]]:
    """The record of one evaluation of a run, resumed or read where it exists; holds the run's lock meanwhile.

    Args:
        named: attacks by name, all of radius eps.
        knowledge: "white-box"; "adaptive": against the surrogates of the defence, too; "static": the pictures are made
            against the classifier below the test-time method, or without one against zero-shot classification.
        limit: number of test images, classes in proportion, a larger limit containing every smaller one.
    """
    config, spec = experiment.config, experiment.backbone.spec
    pictures = EvalSet(experiment.dataset, split, resolution=spec.resolution, limit=limit)
    defense = experiment.defense
    parameters = sum(p.numel() for p in defense.parameters())
    trained = [entry for entry in run.entries() if entry.get("event") == "epoch"]
    setup = Setup(
        method=methods.full(config.method),
        options=config.options,
        backbone=BackboneFacts(name=spec.name, sha256=spec.sha256),
        data=DataFacts(
            name=experiment.dataset.name,
            split=split,
            split_hash=experiment.dataset.sha256,
            classes=experiment.dataset.classes,
            subset=config.subset,
            label_space=len(experiment.dataset.classes),
            preprocessing=PREPROCESSING,
            available=len(experiment.dataset.items(split)),
        ),
        threat=Threat(eps=eps, knowledge=knowledge, resolution=spec.resolution),
        shots=config.shots if parameters else None,
        split_seed=config.split_seed if parameters else None,
        seed=config.seed,
        trained_on=experiment.trained_on if parameters else "",
        training_attack=attacks.describe(training_attack(config)) if parameters else None,
        training_flags=tuple(trained[-1]["flags"]) if trained else (),
        config_hash=run.config_hash,
        cost=Cost(
            trainable_parameters=parameters,
            learned_bytes=sum(t.numel() * t.element_size() for t in defense.learned().values()),
        ),
        environment=run.environment,
        command=command,
    )
    classifier = experiment.classifier
    surrogates = _surrogates(experiment, classifier, knowledge)
    with run.lock():
        place = settings(setup, named, len(surrogates), images=len(pictures))
        if experiment.test_time is not None:
            place |= {"method": setup.method, "options": dict(setup.options)}
        elsewhere = f"{experiment.dataset.name}-" if experiment.trained_on else ""
        added = f"{methods.split(config.method)[1]}-" if config.method != run.config["method"] else ""
        name = f"{elsewhere}{added}{'+'.join(named)}-{format_eps(eps)}"
        folder = run.evaluation(place, name, apart=bool(elsewhere or added))
        return evaluate_into(
            folder,
            setup,
            classifier,
            named,
            pictures.batches(batch_size),
            surrogates=surrogates,
            keep_examples=keep_examples,
            timing=Timing(train_seconds=sum(entry["seconds"] for entry in trained)),
            total=len(pictures),
            device=experiment.backbone.device,
            callback=callback,
        )
