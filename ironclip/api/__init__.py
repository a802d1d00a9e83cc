"""What `import ironclip` gives: the library in a few names. Each is a thin call of the rooms below."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ironclip.api.audits import Audit as Audit
from ironclip.api.audits import run_audit as run_audit
from ironclip.api.data import Data as Data
from ironclip.api.model import Model as Model
from ironclip.api.progress import Bar, Callback, seen, watched
from ironclip.api.result import Result as Result
from ironclip.api.vision_language import VisionLanguageClassifier as VisionLanguageClassifier
from ironclip.attacks import default
from ironclip.backbones import ClipBackbone
from ironclip.backbones import load as load_backbone
from ironclip.core.errors import UsageError
from ironclip.core.threat import Knowledge, Norm, format_eps, parse_radii
from ironclip.data import open_dataset
from ironclip.data.handed import keep
from ironclip.protocols import repeat
from ironclip.protocols.config import assigned
from ironclip.protocols.experiment import Experiment, open_experiment, transferred, with_test_time
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.frozen import named
from ironclip.protocols.measure import evaluate_run
from ironclip.protocols.resolve import named_attacks, resolve
from ironclip.protocols.sources import check_source
from ironclip.protocols.targeted import check_targeted
from ironclip.records.folder import RunFolder
from ironclip.records.learned import Learned, checksums
from ironclip.records.record import canonical_hash
from ironclip.serve.export import SUFFIXES
from ironclip.serve.exported import ExportedClassifier, open_exported
from ironclip.testtime import called

RUNS = Path("runs")


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    base: str | None = None,
    activation: str | None = None,
    device: str = "cpu",
) -> ClipBackbone:
    """A frozen backbone: `mini`, `ViT-B-32/openai`, `hf-hub:org/name`, a file or folder (see `ironclip list backbones`).

    Args:
        weights: a file, a folder or a tag, where `name` is an architecture.
        base: the backbone that gives the text tower where the weights are an image tower alone.
        activation: where the weights do not say it: "quick_gelu" for OpenAI's and what was tuned from them.
    """
    return load_backbone(name, weights=weights, base=base, activation=activation, device=device)


def dataset(
    source: Any,
    labels: Sequence[Any] | None = None,
    *,
    shots: int | None = 16,
    seed: int = 1,
    classes: str | Path | Sequence[str] | None = None,
    layout: str = "auto",
) -> Data:
    """Images by name, from a folder with one subfolder per class (see `ironclip data list`), or handed over.

    What is handed over is written once into the cache folder, so that a run can be opened again without this program. Training
    augments by itself: hand over images without random transforms and without Normalize.

    Args:
        source: a name or a path; or a torch or torchvision data set, a Hugging Face data set, a list of (image, label), a list
            of images with `labels`, or {"train": ..., "test": ...} of these. Without a test split, one is made.
        labels: of a list of images: numbers or class names.
        shots: training images per class; None: all.
        seed: draws them.
        classes: of a folder, a file with the class names, where the folders' names are none; of what is handed over, the
            list of names, where it does not say them itself.
        layout: what the folders mean, where that is not clear: "classes", "splits", "class/split" or "old=train,new=test".
    """
    if isinstance(source, str | Path):
        if labels is not None or not isinstance(classes, str | Path | None):
            raise UsageError(f"{source} is a name or a path: it takes no labels, and classes is a file with class names")
        found = open_dataset(source, classes_file=classes, layout=layout)
        return Data(str(source), found, shots, seed, None if classes is None else str(classes), layout)
    if layout != "auto" or isinstance(classes, str | Path):
        raise UsageError("images that are handed over take no layout, and classes is a list of names")
    with closing(Bar("images", hidden=not seen())) as bar:
        folder = keep(source, labels, classes=classes, progress=bar.count)
    return Data(str(folder), open_dataset(folder), shots, seed)


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
    given: dict[str, Any] = {
        **named(backbone),
        "seed": seed,
        "split_seed": data.seed,
        "shots": data.shots,
        "classes": data.classes_file,
        "layout": data.layout,
    }
    given |= {key: value for key, value in (("eps", eps), ("norm", norm)) if value is not None}
    config = resolve(method, data.name, preset=preset, given=given, changes=assigned(settings))
    experiment = open_experiment(config, backbone=backbone, dataset=data.dataset)
    with watched(f"train {method}", callback) as tell:
        run = train(config, root=Path(root), callback=tell, experiment=experiment, as_last=experiment.defense.learns)
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
    attack: str | Sequence[str] | None = None,
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
        attack: one or several names (see `ironclip list attacks`); default: a worst case with nothing to set, and for a test-time
            method met by an attacker who knows it the attack "adaptive".
        eps: the radius in the units of the norm, or several such as "1/255,4/255"; default: 4/255 for "linf", none for "l2".
        limit: number of test images, classes in proportion.
        knowledge: default: white-box, and for test-time methods both static and adaptive.
        source: for knowledge "transfer": the backbone or the run on which the images are made.
        targeted: also how often each attack reaches the class that this rule chooses: "next", "random" or "least-likely".
        options: of the attacks, such as steps=100.
    """
    many = [models] if isinstance(models, Model) else list(models)

    def names_for(known: str, test_time: bool) -> list[str]:
        if attack is None:
            return [default(known, test_time=test_time, norm=norm)]
        return attack.split(",") if isinstance(attack, str) else list(attack)

    radii = parse_radii(None if eps is None else str(eps), norm)
    check_source(knowledge, source)
    known = knowledge or "white-box"
    for radius in radii:
        early = named_attacks(names_for(known, True), radius, seed, assigned(options), norm=norm, knowledge=known)
        check_targeted(targeted, known, early.values())
    records = []
    for model in many:
        run, experiment = _measurable(model, data, Path(root))
        usual: tuple[Knowledge, ...] = ("white-box",) if experiment.test_time is None else ("static", "adaptive")
        for radius in radii:
            for known in (knowledge,) if knowledge else usual:
                names = names_for(known, experiment.test_time is not None)
                attacks = named_attacks(names, radius, seed, assigned(options), norm=norm, knowledge=known)
                command = repeat.evaluation_command(
                    run, experiment, names, radius, norm=norm, changes=assigned(options), seed=seed, knowledge=known,
                    source=source, limit=limit, targeted=targeted,
                )  # fmt: skip
                with watched(f"{model.method}, eps {format_eps(radius, norm)}, {known}", callback) as tell:
                    record, _ = evaluate_run(
                        run, experiment, attacks, eps=radius, norm=norm, knowledge=known, source=source, limit=limit,
                        targeted=targeted, command=command, callback=tell,
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
    return Model.from_pretrained(target, backbone=backbone, device=device)


def _measurable(model: Model, data: Data | str | Path | None, root: Path) -> tuple[RunFolder, Experiment]:
    """A run and an experiment on these data; a model without a run gets one."""
    name = data.name if isinstance(data, Data) else data if data is None else str(data)
    if model.experiment is not None:
        assert model.run is not None
        return model.run, model.experiment if name is None else transferred(model.experiment, name)
    loaded = model.pretrained
    assert loaded is not None
    if name is None:
        raise UsageError(f"{model!r} was loaded without images; give `data` to evaluate it on")
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
