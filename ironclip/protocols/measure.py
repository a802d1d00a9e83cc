"""One evaluation of a run: the classifiers that an attacker gets, and the set-up in the record."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ironclip import attacks
from ironclip.backbones.counting import counted
from ironclip.core.errors import UsageError
from ironclip.core.memory import Parts
from ironclip.core.signals import until_asked
from ironclip.core.tensors import evaluating, frozen
from ironclip.core.threat import Knowledge, Norm, Threat
from ironclip.core.types import Attack, Batch, Classifier
from ironclip.data import Dataset, EvalSet
from ironclip.loops.evaluation import evaluate_into, settings
from ironclip.loops.scoring import full_precision
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig
from ironclip.protocols.distinct import check_distinct
from ironclip.protocols.distortion import distortion as feature_distortion
from ironclip.protocols.distortion import perturbing
from ironclip.protocols.experiment import Experiment
from ironclip.protocols.few_shot import training_attack
from ironclip.protocols.sources import borrowed
from ironclip.protocols.targeted import check_targeted, success
from ironclip.records.folder import EvaluationFolder, RunFolder
from ironclip.records.learned import fingerprint
from ironclip.records.pictures import Example
from ironclip.records.record import BackboneFacts, Cost, DataFacts, Record, Setup, Timing

Callback = Callable[[dict[str, Any]], None]
BATCH = 100  # images that are read at once
COUNTED = 8  # images on which passes and seconds of an answer are taken
PREPROCESSING = "shorter side bicubic antialiased, centre crop"


@dataclass(frozen=True)
class Prepared:
    """One evaluation of a run before its first image is scored; `prepare` makes it.

    Args:
        place: settings, name and whether apart, as `RunFolder.evaluation` takes them.
    """

    run: RunFolder
    experiment: Experiment
    attacks: Mapping[str, Attack]
    setup: Setup
    timing: Timing
    classifier: Classifier
    surrogates: Sequence[Classifier]
    pictures: EvalSet
    place: tuple[Mapping[str, Any], str, bool]
    batch_size: int
    exact: bool
    keep_examples: int

    def folder(self) -> EvaluationFolder:
        """The folder of the evaluation; the caller holds the run's lock."""
        chosen, name, apart = self.place
        return self.run.evaluation(chosen, name, apart=apart)

    def weighed(self) -> "Prepared":
        """The same with the cost per answer, where a test-time method answers."""
        if self.experiment.test_time is None:
            return self
        weight, seconds = answer_cost(self.experiment, self.classifier, self.pictures)
        cost = self.setup.cost.model_copy(update=weight)
        timing = self.timing.model_copy(update={"answer_seconds": seconds})
        return replace(self, setup=self.setup.model_copy(update={"cost": cost}), timing=timing)

    def batches(self, rows: Sequence[range] | None = None) -> Iterator[Batch]:
        """The batches of these rows; None: of all images."""
        if rows is None:
            return self.pictures.batches(self.batch_size)
        return (self.pictures.batch(slice(each.start, each.stop)) for each in rows)

    def score(
        self, folder: EvaluationFolder, batches: Iterable[Batch], total: int | None, callback: Callback | None = None
    ) -> tuple[Record, list[Example]]:
        """Record and examples of these batches, which hold `total` images, kept in the folder; resumed there."""
        return evaluate_into(
            folder,
            self.setup,
            self.classifier,
            self.attacks,
            batches,
            surrogates=self.surrogates,
            keep_examples=self.keep_examples,
            timing=self.timing,
            total=total,
            device=self.experiment.backbone.device,
            exact=self.exact,
            callback=callback,
        )


def evaluate_run(
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    *,
    eps: float,
    distortion: bool = False,
    targeted: str | None = None,
    callback: Callback | None = None,
    **options: Any,
) -> tuple[Record, list[Example]]:
    """The record of one evaluation of a run, resumed or read where it exists; holds the run's lock meanwhile.

    Args:
        named, eps, options: as of `prepare`.
        targeted: also how often each attack reaches the class that this rule chooses (`targeted.RULES`), under "targeted" there.
        distortion: also how far each attack moves the features, under "distortion" in the record's diagnostics.
    """
    knowledge = options.get("knowledge", "white-box")
    if distortion and (knowledge not in ("white-box", "adaptive") or experiment.test_time is not None):
        raise UsageError(
            "the feature distortion is that of a trained classifier under attacks on itself: no test-time method, "
            "and white-box or adaptive"
        )
    if distortion:
        for attack in named.values():
            perturbing(attack)
    check_targeted(targeted, knowledge, named.values())
    made = prepare(run, experiment, named, eps=eps, **options)
    pictures, size = made.pictures, made.batch_size
    with run.lock():
        folder = made.folder()
        if folder.record() is None:
            made = made.weighed()
        record, examples = made.score(folder, made.batches(), len(pictures), callback)
        if distortion and "distortion" not in record.diagnostics:
            moved = {
                name: feature_distortion(experiment.base, perturbing(attack), until_asked(pictures.batches(size)))
                for name, attack in named.items()
            }
            record = record.model_copy(update={"diagnostics": {**record.diagnostics, "distortion": moved}})
            folder.save_record(record)
        if targeted is not None and targeted not in record.diagnostics.get("targeted", {}):
            device, seen = str(experiment.backbone.device), record.threat
            reached = {
                name: success(made.classifier, attack, until_asked(pictures.batches(size)), targeted, seen, device=device)
                for name, attack in named.items()
            }
            rules = {**record.diagnostics.get("targeted", {}), targeted: reached}
            record = record.model_copy(update={"diagnostics": {**record.diagnostics, "targeted": rules}})
            folder.save_record(record)
        return record, examples


def prepare(
    run: RunFolder,
    experiment: Experiment,
    named: Mapping[str, Attack],
    *,
    eps: float,
    norm: Norm = "linf",
    knowledge: Knowledge = "white-box",
    source: str | None = None,
    split: str = "test",
    limit: int | None = None,
    batch_size: int | None = None,
    keep_examples: int = 0,
    command: str = "",
) -> Prepared:
    """An evaluation with everything loaded; nothing is written.

    Args:
        named: attacks by name, all of this norm and radius.
        knowledge: "white-box"; "adaptive": against the surrogates of the defence, too; "static": the images are made
            against the classifier below the test-time method, or without one against zero-shot classification; "transfer": on
            `source`, a backbone or a run; "black-box": with scores alone.
        limit: number of test images, classes in proportion, a larger limit containing every smaller one.
        batch_size: images at once, taken or refused; None: 100, or as many of them as the memory of the device holds.
    """
    config, spec = experiment.config, experiment.backbone.spec
    check_distinct(experiment.backbone, experiment.dataset)
    pictures = EvalSet(experiment.dataset, split, resolution=spec.resolution, limit=limit)
    defense = experiment.defense
    parameters = sum(p.numel() for p in defense.parameters())
    entries = run.entries()
    trained = [entry for entry in entries if entry.get("event") == "epoch"]
    classifier = experiment.classifier
    made_on, surrogates = borrowed(experiment, classifier, knowledge, source)
    threat = Threat(norm=norm, eps=eps, knowledge=knowledge, resolution=spec.resolution, source=made_on)
    setup = Setup(
        method=methods.full(config.method),
        options=config.options,
        backbone=BackboneFacts(name=spec.name, sha256=spec.sha256),
        data=data_facts(experiment.dataset, split, subset=config.subset, suite=experiment.suite),
        threat=threat,
        shots=config.shots if parameters else None,
        split_seed=config.split_seed if parameters else None,
        seed=config.seed,
        trained_on=experiment.trained_on if parameters else "",
        training_attack=attacks.describe(training_attack(config)) if parameters else None,
        training_flags=tuple(next((entry["flags"] for entry in reversed(entries) if "flags" in entry), ())),
        notes=(*defense.notes, *(experiment.test_time.notes if experiment.test_time else ()), *_trained_in(config, parameters)),
        config_hash=run.config_hash,
        learned_sha256=fingerprint(defense.learned()),
        cost=Cost(
            trainable_parameters=parameters,
            learned_bytes=sum(t.numel() * t.element_size() for t in defense.learned().values()),
        ),
        environment=run.environment,
        command=command,
    )
    place = settings(setup, named, len(surrogates), images=len(pictures))
    if experiment.test_time is not None:
        place |= {"method": setup.method, "options": dict(setup.options)}
    subset = "" if config.subset == "all" else f"{config.subset}-"
    subset += f"{experiment.suite}-" if experiment.suite else ""
    elsewhere = f"{experiment.dataset.name}-{subset}" if experiment.trained_on else ""
    added = f"{methods.split(config.method)[1]}-" if config.method != run.config["method"] else ""
    sort = f"{knowledge}-" if knowledge in ("transfer", "black-box") else ""
    name = f"{elsewhere}{added}{'+'.join(named)}-{sort}{threat.radius}"
    return Prepared(
        run=run,
        experiment=experiment,
        attacks=named,
        setup=setup,
        timing=Timing(train_seconds=sum(entry["seconds"] for entry in trained)),
        classifier=classifier,
        surrogates=surrogates,
        pictures=pictures,
        place=(place, name, bool(elsewhere or added)),
        batch_size=batch_size or BATCH,
        exact=batch_size is not None,
        keep_examples=keep_examples,
    )


def data_facts(dataset: Dataset, split: str, *, subset: str = "all", suite: str = "") -> DataFacts:
    """What a record says of the images of a split."""
    return DataFacts(
        name=dataset.name,
        split=split,
        split_hash=dataset.sha256,
        images_hash=dataset.images_sha256(split),
        classes=dataset.classes,
        subset=subset,
        label_space=len(dataset.classes),
        suite=suite,
        preprocessing=PREPROCESSING,
        available=len(dataset.items(split)),
    )


def _trained_in(config: RunConfig, parameters: int) -> tuple[str, ...]:
    """Both precisions in words, where they differ."""
    if config.precision == "float32" or not parameters:
        return ()
    return (f"Training and its inner attacks computed in {config.precision}, this evaluation and its attacks in float32.",)


def answer_cost(experiment: Experiment, classifier: Classifier, pictures: EvalSet) -> tuple[dict[str, float], float]:
    """Passes of the image encoder for one image, as `Cost` names them, and seconds; means over the first few images."""
    images = next(iter(pictures.batches(COUNTED))).images.to(experiment.backbone.device)
    with evaluating(classifier), frozen(classifier), full_precision(), torch.no_grad():
        classifier(images[:1])  # what is made once, such as the text graph, is no cost of an image
        with counted(experiment.backbone) as passes:
            start = time.perf_counter()
            Parts(images.device)(lambda rows: classifier(images[rows]).sum().item(), len(images))  # waits for the device
            seconds = time.perf_counter() - start
    n = len(images)
    return {"forward_passes": passes.forward / n, "backward_passes": passes.backward / n}, seconds / n
