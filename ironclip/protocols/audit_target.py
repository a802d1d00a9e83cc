"""The targets of an audit: a run, zero-shot classification by a backbone, or a user's `module:function`.

The function behind `module:function` (or `file.py:function`) is called once with the class names of the data, a tuple of
strings (or with nothing, if it takes nothing), and returns a callable: images [B, 3, H, W] float32 in [0, 1] -> logits
[B, K]. A module may be named in its place. Attributes of the callable are honoured where they are there: `resolution`
(pixels per side, else --resolution), `surrogates` (callables that an adaptive attacker would differentiate instead) and
`base` (what a test-time method stands on). Its code can import the files beside it (of a module: those of the current folder);
its errors become one line, and it cannot end the process (`audit.guard`).
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ironclip.audit.faults import External
from ironclip.audit.guard import guarded
from ironclip.backbones import assemble
from ironclip.backbones.loading import check_device, load
from ironclip.core.errors import UsageError
from ironclip.core.types import Adaptation, Classifier
from ironclip.data import Dataset, open_dataset
from ironclip.protocols import methods
from ironclip.protocols.distinct import check_distinct
from ironclip.protocols.experiment import Experiment, open_experiment
from ironclip.protocols.few_shot import open_run
from ironclip.protocols.frozen import moved_weights
from ironclip.protocols.resolve import resolve
from ironclip.protocols.sources import zero_shot
from ironclip.records.folder import is_run
from ironclip.records.learned import fingerprint
from ironclip.records.record import BackboneFacts


@dataclass(frozen=True)
class AuditTarget:
    """The audited classifier and its data.

    Args:
        surrogates: other functions that an attacker would differentiate; attacked, too.
        sources: undefended classifiers, for transfer images in the diagnostics.
        base: what a test-time method stands on.
        facts: of the record: method, options, backbone, shots, split_seed, seed.
        code: sha256 of a foreign target's file and of the Python files beside it; "" for one of ours.
    """

    name: str
    classifier: Classifier
    dataset: Dataset
    resolution: int
    surrogates: tuple[Classifier, ...]
    sources: tuple[Classifier, ...]
    base: Classifier | None
    facts: Mapping[str, Any]
    code: str = ""


def open_target(
    name: str,
    data: str | None,
    *,
    device: str = "cpu",
    resolution: int = 224,
    transfer: Sequence[str] = (),
    classes: Path | str | None = None,
    layout: str = "auto",
    frozen: Mapping[str, str] | None = None,
) -> AuditTarget:
    """The target of this name.

    Args:
        resolution: pixels per side for a foreign classifier that does not say its own.
        classes: file with the class names of the data. layout: what their folders mean.
        frozen: weights, base and activation of a backbone; for a run the weights where its file was moved.
        transfer: backbones on which transfer images are made besides.

    Raises:
        UsageError: no run, backbone, module or function of this name, or data missing.
    """
    where, _, attribute = name.rpartition(":")
    if attribute.isidentifier() and where and not Path(name).exists() and not name.startswith("hf-hub:"):
        if frozen:
            raise UsageError(
                f"{name!r} is somebody else's classifier, which has its own weights; leave out --{next(iter(frozen))}"
            )
        target = _foreign(name, where, attribute, data, device, resolution, classes, layout)
    else:
        target = _own(name, data, device, classes, layout, frozen or {})
    sources = []
    with torch.no_grad():
        for other in transfer:
            backbone = load(other, device=device)
            if backbone.spec.resolution != target.resolution:
                sizes = f"{backbone.spec.resolution} and {target.resolution} pixels"
                raise UsageError(f"transfer images from {other!r} do not fit: the models see {sizes}")
            sources.append(assemble(backbone, target.dataset.classes, Adaptation(templates=target.dataset.templates)))
    return replace(target, sources=(*target.sources, *sources))


def _own(
    name: str, data: str | None, device: str, classes: Path | str | None, layout: str, frozen: Mapping[str, str]
) -> AuditTarget:
    path = Path(name)
    if path.exists() and is_run(path):
        if data is not None or classes is not None or layout != "auto":
            raise UsageError("a run knows its data set and its class names; leave out --data, --classes and --layout")
        experiment = open_run(path, device=device, weights=moved_weights(frozen))[1]
    elif data is None:
        raise UsageError(f"{name!r} is no run; for a backbone or module:function add --data")
    else:
        given = {"backbone": name, "classes": None if classes is None else str(classes), "layout": layout, **frozen}
        experiment = open_experiment(resolve("zero_shot", data, given=given), device=device)
    return of_experiment(name, experiment)


def of_experiment(name: str, experiment: Experiment) -> AuditTarget:
    """A trained defence, or a backbone as it is, on the data of its experiment."""
    check_distinct(experiment.backbone, experiment.dataset)
    classifier = experiment.classifier
    surrogates, sources, base = _beside(experiment, classifier)
    config, spec = experiment.config, experiment.backbone.spec
    learned = experiment.defense.learned()
    facts = {
        "method": methods.full(config.method),
        "options": config.options,
        "backbone": BackboneFacts(name=spec.name, sha256=spec.sha256),
        "learned_sha256": fingerprint(learned),
        "trained_on": experiment.trained_on if learned else "",
        "shots": config.shots if experiment.defense.learns else None,
        "split_seed": config.split_seed if experiment.defense.learns else None,
    }
    return AuditTarget(name, classifier, experiment.dataset, spec.resolution, surrogates, sources, base, facts)


def _beside(
    experiment: Experiment, classifier: Classifier
) -> tuple[tuple[Classifier, ...], tuple[Classifier, ...], Classifier | None]:
    """(surrogates, undefended classifiers, base of the test-time method)."""
    method = getattr(experiment, "test_time", None)
    plain: tuple[Classifier, ...] = ()
    if experiment.config.method != "zero_shot":
        plain = (zero_shot(experiment.backbone, experiment),)
    if method is None:
        return experiment.defense.surrogates(classifier), plain, None
    base: Classifier = classifier.base  # type: ignore[attr-defined]
    return (*method.surrogates(classifier), base, *experiment.defense.surrogates(base)), plain, base


def _foreign(
    name: str,
    where: str,
    attribute: str,
    data: str | None,
    device: str,
    resolution: int,
    classes: Path | str | None,
    layout: str,
) -> AuditTarget:
    if data is None:
        raise UsageError(f"{name!r} is somebody else's classifier; name the data with --data")
    home = Path(where).parent if where.endswith(".py") else Path.cwd()
    found = _imported(where, attribute, home)
    dataset = open_dataset(data, classes_file=classes, layout=layout)
    function = found if isinstance(found, nn.Module) else _made(name, found, dataset.classes, home)
    return of_callable(name, function, dataset, device=device, resolution=resolution, home=home, code=_code(where))


def of_callable(
    name: str,
    function: Any,
    dataset: Dataset,
    *,
    device: str = "cpu",
    resolution: int = 224,
    home: Path | None = None,
    code: str = "",
) -> AuditTarget:
    """A foreign classifier, images -> logits, with its optional attributes (see the head of this file).

    Args:
        home: folder from which it may import while it is called. code: as in `Target`.

    Raises:
        UsageError: no callable, or a resolution that is no number of pixels.
    """
    with guarded(f"{name}: its attributes cannot be read", home):
        if isinstance(function, nn.Module):
            function.to(check_device(device))
        side, base = getattr(function, "resolution", resolution), getattr(function, "base", None)
        surrogates = getattr(function, "surrogates", ())
        surrogates = tuple(surrogates() if callable(surrogates) else surrogates)
    if not isinstance(side, int) or side < 1:
        raise UsageError(f"the target's resolution is a number of pixels; got {side!r}")

    def wrapped(each: Any) -> External:
        return External(each, dataset.classes, home)

    facts = {"method": name, "backbone": BackboneFacts(name="external"), "options": {}}
    return AuditTarget(
        name,
        wrapped(function),
        dataset,
        side,
        tuple(map(wrapped, surrogates)),
        (wrapped(base),) if base is not None else (),
        wrapped(base) if base is not None else None,
        facts,
        code,
    )


def _code(where: str) -> str:
    """sha256 of the file behind a target and of the Python files beside it; a changed text is audited again.

    Two versions of a defence may give the same logits on clean images and differ in their gradients only.
    """
    module = None if where.endswith(".py") else sys.modules.get(where)
    file = Path(where) if module is None else Path(module.__file__ or "")
    digest = hashlib.sha256()
    for each in sorted(file.resolve().parent.glob("*.py")) if file.is_file() else []:
        digest.update(each.name.encode() + each.read_bytes())
    return digest.hexdigest()


def _imported(where: str, attribute: str, home: Path) -> Any:
    """The object behind `module:attribute` or `file.py:attribute`."""
    file = Path(where)
    if where.endswith(".py") and not file.is_file():
        raise UsageError(f"{where}: no such file")
    with guarded(f"cannot import {where!r}", home):
        module = _executed(file) if where.endswith(".py") else importlib.import_module(where)
    if not hasattr(module, attribute):
        raise UsageError(f"{where!r} has no {attribute!r}")
    return getattr(module, attribute)


def _executed(file: Path) -> ModuleType:
    """The file as a module under a name that no installed one has; registered, for dataclasses look their module up."""
    name = f"ironclip_target_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _made(name: str, maker: Any, classes: tuple[str, ...], home: Path) -> Any:
    if not callable(maker):
        raise UsageError(f"{name!r} is no function; expected one that takes the class names and returns a classifier")
    with guarded(f"{name}(classes) fails", home):
        made = maker(classes) if inspect.signature(maker).parameters else maker()
    if not callable(made):
        raise UsageError(f"{name}(classes) returns {type(made).__name__}; expected a callable images -> logits")
    return made
