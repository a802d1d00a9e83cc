"""What `import ironclip` gives: the library in a few names. Each is a call of the rooms below; nothing happens here alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ironclip.attacks import DEFAULT
from ironclip.backbones import ClipBackbone
from ironclip.backbones import load as load_backbone
from ironclip.core.errors import UsageError
from ironclip.core.threat import Knowledge, Norm, parse_eps, parse_radii
from ironclip.core.types import Batch, Classifier
from ironclip.data import Dataset, EvalSet, open_dataset
from ironclip.protocols import methods, repeat
from ironclip.protocols.classify import Prediction, predict
from ironclip.protocols.config import RunConfig, assigned
from ironclip.protocols.experiment import Experiment, open_experiment, transferred, with_test_time
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.measure import evaluate as measure
from ironclip.protocols.resolve import named_attacks, resolve
from ironclip.protocols.sources import check_source
from ironclip.protocols.targeted import check_targeted
from ironclip.records.folder import RunFolder, is_run
from ironclip.records.learned import Learned, checksums
from ironclip.records.record import Record, canonical_hash
from ironclip.report.formats import as_csv, latex, markdown
from ironclip.report.tables import rows
from ironclip.serve.export import SUFFIXES, Exported
from ironclip.serve.export import export as export_experiment
from ironclip.serve.exported import ExportedClassifier, open_exported
from ironclip.serve.facts import own_records
from ironclip.serve.hub import Pretrained, copy_saved, load_pretrained, publish, push_to_hub, save_pretrained
from ironclip.testtime import called

RUNS = Path("runs")
Callback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Data:
    """A data set with how many pictures a class are learned from, and the seed that draws them.

    Args:
        name: as it was asked for, so that a run can open it again.
        shots: None: all training pictures.
    """

    name: str
    dataset: Dataset
    shots: int | None = 16
    seed: int = 1
    classes_file: str | None = None
    layout: str = "auto"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def batch(self, split: str = "test", limit: int | None = None, *, resolution: int) -> Batch:
        """Pictures of a split as images [B, 3, R, R] in [0, 1] with their labels, classes in proportion."""
        return EvalSet(self.dataset, split, resolution=resolution, limit=limit).batch(slice(None))

    def __str__(self) -> str:
        return f"{self.dataset}, {'all' if self.shots is None else self.shots} shots, seed {self.seed}"


class Model(nn.Module):
    """A classifier with what it came from; any attack can be handed it: images [B, 3, R, R] float32 in [0, 1] -> logits [B, K].

    Made by `fit`, `zero_shot`, `test_time` and `load_classifier`, not by hand.
    """

    def __init__(self, experiment: Experiment | None, run: RunFolder | None, pretrained: Pretrained | None = None) -> None:
        super().__init__()
        source = experiment or pretrained
        if source is None:
            raise UsageError("a model comes from `fit`, `zero_shot` or `load_classifier`")
        self.experiment, self.run, self.pretrained = experiment, run, pretrained
        self.classifier: Classifier = source.classifier
        self.backbone: ClipBackbone = source.backbone
        self.config: RunConfig = source.config
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    @property
    def method(self) -> str:
        return methods.full(self.config.method)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images)

    def classify(self, *pictures: str | Path, top: int = 3) -> list[Prediction]:
        """The most probable classes of pictures or of folders of pictures; unreadable ones are left out."""
        return predict(self, [Path(picture) for picture in pictures], top=top)[0]

    def records(self) -> list[Record]:
        """What was measured of this model's run so far."""
        return [] if self.experiment is None else own_records(self.run, self.experiment)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Learned tensors, facts and a model card in a small folder; `load_classifier` reads it."""
        if self.pretrained is not None:
            return copy_saved(self.pretrained.folder, Path(folder))
        return save_pretrained(self.trained("save_pretrained"), Path(folder), records=self.records())

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """The same on the Hugging Face hub; the address of the repository."""
        if self.pretrained is not None:
            return push_to_hub(self.pretrained.folder, repository, private=private)
        return publish(self.trained("push_to_hub"), repository, records=self.records(), private=private)

    def export(self, file: str | Path) -> Exported:
        """One .pt2 or .onnx file that needs neither the run nor this package, compared with this model after writing."""
        return export_experiment(self.trained("export"), Path(file), records=self.records())

    def trained(self, verb: str) -> Experiment:
        """What it was made of, or UsageError where it was loaded without its run."""
        if self.experiment is None:
            raise UsageError(f"{verb} works on a model that was trained here; this one was loaded from a saved folder")
        return self.experiment

    def __repr__(self) -> str:
        return f"Model({self.method} on {self.backbone.spec.name}, {len(self.classes)} classes)"


@dataclass(frozen=True)
class Result:
    """Records of one or several models."""

    records: tuple[Record, ...]

    def table(self, form: Literal["markdown", "latex", "csv"] = "markdown") -> str:
        """All records as one table; accuracies with their 95 % intervals."""
        return {"markdown": markdown, "latex": latex, "csv": as_csv}[form](rows(self.records))

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))


def load(name: str, *, weights: str | Path | None = None, device: str = "cpu") -> ClipBackbone:
    """A frozen backbone: `mini`, `ViT-B-32/openai`, `hf-hub:org/name`, a file (see `ironclip list backbones`)."""
    return load_backbone(name, weights=weights, device=device)


def dataset(
    name: str | Path, *, shots: int | None = 16, seed: int = 1, classes: str | Path | None = None, layout: str = "auto"
) -> Data:
    """Pictures by name, or from a folder with one subfolder a class (see `ironclip data list`).

    Args:
        shots: training pictures a class; None: all.
        seed: draws them.
        classes: file with the class names, where the folders' names are none.
        layout: what the folders mean, where that is not clear: "classes", "splits", "class/split" or "old=train,new=test".
    """
    found = open_dataset(name, classes_file=classes, layout=layout)
    return Data(str(name), found, shots, seed, None if classes is None else str(classes), layout)


def fit(
    method: str,
    backbone: ClipBackbone,
    data: Data,
    *,
    eps: str | float | None = None,
    norm: Norm | None = None,
    preset: str | None = None,
    seed: int = 1,
    root: str | Path = RUNS,
    callback: Callback | None = None,
    **settings: Any,
) -> Model:
    """The trained model; its run lies in `root`, and the same call again opens it instead of training.

    Args:
        method: such as "nap", or several joined by + (see `ironclip list methods`).
        eps: radius of the training attack, such as "4/255"; default: the preset's. norm: its norm; "l2" needs an eps.
        preset: default: that of the method (see `ironclip list presets`).
        settings: any setting of the command line's --set, such as epochs=10, length=4 or **{"attack.steps": 5}.

    Raises:
        UsageError: an unknown method, preset or setting, or a value that cannot be right.
    """
    given = {
        "backbone": backbone.spec.name,
        "seed": seed,
        "split_seed": data.seed,
        "shots": data.shots,
        "classes": data.classes_file,
        "layout": data.layout,
    }
    given |= {key: value for key, value in (("eps", eps), ("norm", norm)) if value is not None}
    config = resolve(method, data.name, preset=preset, given=given, changes=_changes(settings))
    experiment = open_experiment(config, backbone=backbone, dataset=data.dataset)
    run = train(config, root=Path(root), callback=callback, experiment=experiment)
    run, experiment = open_run(run.path, experiment=experiment)
    return Model(experiment, run)


def zero_shot(backbone: ClipBackbone, data: Data, *, root: str | Path = RUNS) -> Model:
    """The backbone as it is, with the hand-written prompts of the data: the undefended first row of every table."""
    return fit("zero_shot", backbone, data, root=root)


def test_time(name: str, model: Model, **options: Any) -> Model:
    """A test-time method on top of a model; nothing is trained again.

    Raises:
        UsageError: an unknown name or option, or a model that holds a test-time method already.
    """
    return Model(with_test_time(model.trained("test_time"), name, called(options)), model.run)


def evaluate(
    models: Model | Sequence[Model],
    data: Data | str | Path | None = None,
    *,
    attack: str | Sequence[str] = DEFAULT,
    eps: str | float | None = None,
    norm: Norm = "linf",
    limit: int | None = None,
    knowledge: Knowledge | None = None,
    source: str | None = None,
    targeted: str | None = None,
    seed: int = 0,
    root: str | Path = RUNS,
    callback: Callback | None = None,
    **options: Any,
) -> Result:
    """Clean and robust accuracy with intervals; robust means right without an attack and under every attack.

    Args:
        data: other data than a model was trained on; a model loaded from a saved folder needs them.
        attack: one or several names (see `ironclip list attacks`); default: a worst case with nothing to set.
        eps: the radius in the units of the norm; default: 4/255 for "linf", none for "l2".
        limit: number of test pictures, classes in proportion.
        knowledge: default: white-box, and for test-time methods both static and adaptive.
        source: for knowledge "transfer": the backbone or the run on which the pictures are made.
        targeted: also how often each attack reaches the class that this rule chooses: "next", "random" or "least-likely".
        options: of the attacks, such as steps=100.
    """
    many = [models] if isinstance(models, Model) else list(models)
    names = attack.split(",") if isinstance(attack, str) else list(attack)
    (radius,) = parse_radii(None, norm) if eps is None else [parse_eps(eps, norm)]
    check_source(knowledge, source)
    attacks = named_attacks(names, radius, seed, _changes(options), norm=norm, knowledge=knowledge or "white-box")
    check_targeted(targeted, knowledge or "white-box", attacks.values())
    records = []
    for model in many:
        run, experiment = _measurable(model, data, Path(root))
        usual: tuple[Knowledge, ...] = ("white-box",) if experiment.test_time is None else ("static", "adaptive")
        for known in (knowledge,) if knowledge else usual:
            command = repeat.evaluation(
                run, experiment, names, radius, norm=norm, changes=_changes(options), seed=seed, knowledge=known, source=source,
                limit=limit, targeted=targeted,
            )  # fmt: skip
            record, _ = measure(
                run, experiment, attacks, eps=radius, norm=norm, knowledge=known, source=source, limit=limit, targeted=targeted,
                command=command, callback=callback,
            )  # fmt: skip
            records.append(record)
    return Result(tuple(records))


def load_classifier(
    target: str | Path, *, backbone: ClipBackbone | str | None = None, device: str = "cpu", trust: bool = False
) -> Model | ExportedClassifier:
    """A classifier from a run's folder, a folder of `save_pretrained`, a hub id, or an exported .pt2 or .onnx file.

    Args:
        backbone: the frozen model of a saved folder or its name, where the folder must not choose it or it is loaded already.
        trust: open a .pt2, which is code, because you trust who wrote it.

    Raises:
        CheckpointError: not there, damaged, or learned on other frozen weights than these.
    """
    path = Path(target)
    if path.suffix in SUFFIXES:
        return open_exported(path, trust=trust)
    if is_run(path):
        run, experiment = open_run(path, device=device)
        return Model(experiment, run)
    return Model(None, None, load_pretrained(target, device=device, backbone=backbone))


def _measurable(model: Model, data: Data | str | Path | None, root: Path) -> tuple[RunFolder, Experiment]:
    """A run and an experiment on these data; a model without a run gets one."""
    name = data.name if isinstance(data, Data) else data if data is None else str(data)
    if model.experiment is not None:
        assert model.run is not None
        return model.run, model.experiment if name is None else transferred(model.experiment, name)
    loaded = model.pretrained
    assert loaded is not None
    if name is None:
        raise UsageError(f"{model!r} was loaded without pictures; give `data` to evaluate it on")
    experiment = loaded.on(data.dataset if isinstance(data, Data) else open_dataset(name), name)
    tensors, config = loaded.defense.learned(), experiment.config
    mark = canonical_hash({"config": config.as_dict(), "learned": checksums(tensors)})[:8]
    run = RunFolder.create(config.as_dict(), out=root / f"loaded-{config.method}-{experiment.dataset.name}-{mark}")
    if run.status == "new":
        with run.lock():
            run.save_environment(str(loaded.backbone.device))
            base = loaded.backbone.spec.sha256
            run.save_learned(Learned(tensors, base, config.method, dict(config.options), loaded.classes))
    return run, experiment


def _changes(options: Mapping[str, Any]) -> list[str]:
    """As the command line takes them."""
    return assigned(options)
