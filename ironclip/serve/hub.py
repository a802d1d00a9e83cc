"""What was learned as a folder to share: three small files, on the disk or on the Hugging Face hub.

learned.safetensors  learned tensors only, with the sha256 of the frozen weights below them
ironclip.json        configuration, class names, prompts, threat, what was measured
README.md            the model card
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import huggingface_hub
import torch
from pydantic import Field

from ironclip import testtime
from ironclip.backbones import AdaptedClassifier, ClipBackbone, assemble
from ironclip.backbones.loading import load
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.core.files import disk_errors, write_json, write_text, write_whole
from ironclip.core.texts import json_value, plain_bytes
from ironclip.core.types import Classifier, Defense, TestTime
from ironclip.data import Dataset, base_to_new
from ironclip.protocols import methods
from ironclip.protocols.config import RunConfig, configure
from ironclip.protocols.experiment import Experiment, build_defense, take_learned
from ironclip.protocols.outside import refuse_outside, registered, shared
from ironclip.records.learned import Learned, load_learned, save_learned
from ironclip.records.record import Part, Record
from ironclip.records.verified import UNSEALED, opened, sealed
from ironclip.serve.card import card
from ironclip.serve.facts import KEY, Facts, facts_of

LEARNED, CARD = "learned.safetensors", "README.md"
FILES = (LEARNED, KEY, CARD)


class Saved(Part):
    """The content of `ironclip.json`: the facts, the run's configuration, and the hand-written prompts of its data."""

    facts: Facts
    config: dict[str, Any]
    prompts: tuple[Annotated[str, Field(pattern=r"\{\}")], ...] = Field(max_length=10_000)


@dataclass(frozen=True)
class Pretrained:
    """A saved classifier on its backbone; it needs no data set. Its three files lie in `folder`."""

    folder: Path
    saved: Saved
    config: RunConfig
    backbone: ClipBackbone
    defense: Defense
    test_time: TestTime | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.saved.facts.classes

    @property
    def base(self) -> AdaptedClassifier:
        """The trained classifier, without a test-time method."""
        with torch.no_grad():
            return assemble(self.backbone, self.classes, self.defense.adaptation(self.backbone, self.classes))

    @property
    def classifier(self) -> Classifier:
        return self.base if self.test_time is None else self.test_time(self.base)

    def on(self, dataset: Dataset, name: str) -> Experiment:
        """As an experiment on these data, to be measured.

        Raises:
            UsageError: the data have other classes.
        """
        if self.config.subset != "all":
            dataset = base_to_new(dataset)[0 if self.config.subset == "base" else 1]
        if dataset.classes != self.classes:
            raise UsageError(
                f"{dataset.name} has the classes {', '.join(dataset.classes[:4])} ...; this classifier knows "
                f"{', '.join(self.classes[:4])} ... ({len(self.classes)}), in this order"
            )
        config = self.config.model_copy(update={"dataset": name})
        trained = self.saved.facts.training
        elsewhere = trained.data if trained is not None and trained.data != dataset.name else ""
        return Experiment(config, dataset, self.backbone, self.defense, self.test_time, elsewhere)


def save_pretrained(experiment: Experiment, folder: Path, *, records: Sequence[Record] = (), repository: str = "") -> Path:
    """Write what a trained experiment learned, its facts and its card; files of the same names are replaced.

    Args:
        records: what was measured of it; the table of the card.
        repository: the hub id for the card's example; default: the folder's name.
    """
    config, defense = experiment.config, experiment.defense
    # Paths belong to the machine that trained; names and hashes say what was used.
    plain = {**shared(config.as_dict()), "dataset": experiment.dataset.name}
    facts = facts_of(experiment, records)
    saved = Saved(facts=facts, config=plain, prompts=experiment.dataset.templates)
    learned = Learned(
        tensors=defense.learned(),
        base_sha256=experiment.backbone.spec.sha256,
        method=config.method,
        options=dict(config.options),
        classes=facts.classes,
    )
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_learned(folder / LEARNED, learned)
        write_json(folder / KEY, sealed(saved))
        write_text(folder / CARD, card(facts, records, repository or folder.name))
    return folder


def load_pretrained(
    target: str | Path,
    *,
    device: str = "cpu",
    backbone: ClipBackbone | str | None = None,
    frozen: Mapping[str, str] | None = None,
    revision: str | None = None,
) -> Pretrained:
    """A saved classifier on top of its backbone.

    Args:
        target: a folder of `save_pretrained`, or a hub id such as "org/name" (also "hf-hub:org/name").
        backbone: the frozen model or its name; default: by the name it was trained on, unless that is a file or repository.
        frozen: weights, base and activation of the backbone, as for `backbones.load`; the activation may be the folder's own.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: not there, damaged, learned on other frozen weights than these, or naming what only a caller may name.
    """
    folder = fetch(str(target), revision)
    saved = read_saved(folder / KEY)
    config = configure(saved.config)
    refuse_outside(config.as_dict(), folder)
    if backbone is None and not registered(config.backbone):
        raise CheckpointError(
            f"{folder} names the backbone {config.backbone!r}, a file or a repository, which is not its to choose; "
            "name it yourself with --backbone (in Python backbone=)"
        )
    if not isinstance(backbone, ClipBackbone):
        options: dict[str, Any] = {"activation": config.activation, **(frozen or {})}
        backbone = load(backbone or config.backbone, device=device, **options)
    learned = load_learned(folder / LEARNED, backbone.spec.sha256)
    ours = (learned.classes, learned.method, backbone.spec.resolution)
    if ours != (saved.facts.classes, config.method, saved.facts.resolution):
        raise CheckpointError(f"{folder}: {LEARNED} and {KEY} are of different models; fetch both again")
    defense = build_defense(config, backbone, saved.facts.classes, saved.prompts)
    take_learned(defense, learned, folder / LEARNED)
    _, above = methods.split(config.method)
    _, adapts = methods.divide(config.method, config.options)
    test_time = testtime.build(above, adapts, dataset=config.dataset) if above else None
    return Pretrained(folder, saved, config, backbone, defense, test_time)


def copy_saved(source: Path, folder: Path) -> Path:
    """A saved folder again, card and all."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (source / name).exists():
                write_whole(folder / name, partial(shutil.copyfile, source / name))
    return folder


def push_to_hub(folder: Path, repository: str, *, private: bool = True, message: str = "Upload an ironclip classifier") -> str:
    """Upload a saved folder; the address of the repository, made if it is not there.

    Args:
        private: of a repository made here; one that exists keeps what it is.

    Raises:
        CheckpointError: no such folder, or the hub refuses (not logged in, no right to write, no connection).
    """
    read_saved(folder / KEY)
    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, allow_patterns=list(FILES), commit_message=message)
    except Exception as error:  # the library raises errors of several packages
        raise CheckpointError(f"{repository}: the hub refuses: {_first(error)}; log in with `hf auth login`") from None
    return str(address)


def publish(experiment: Experiment, repository: str, *, records: Iterable[Record] = (), private: bool = True) -> str:
    """`save_pretrained` into a temporary folder, then `push_to_hub`."""
    with tempfile.TemporaryDirectory() as place:
        folder = save_pretrained(experiment, Path(place) / "model", records=list(records), repository=repository)
        return push_to_hub(folder, repository, private=private)


def is_saved(target: Path) -> bool:
    """Whether this is a folder of `save_pretrained`."""
    return (target / KEY).is_file()


def fetch(target: str, revision: str | None = None) -> Path:
    """The local folder of a saved classifier, from the hub or its cache where `target` is no folder.

    Raises:
        CheckpointError: neither a folder nor something the hub gives.
    """
    if Path(target).is_dir():
        return Path(target)
    repository = target.removeprefix("hf-hub:")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise CheckpointError(f"{target}: no such folder, and no hub id such as org/name")
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # the library raises errors of several packages
        raise CheckpointError(f"{target}: no such folder, and the hub does not give it: {_first(error)}") from None


def read_saved(path: Path) -> Saved:
    """What `ironclip.json` says.

    Raises:
        CheckpointError: not there, not of this version, or edited.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is no saved classifier: it has no {path.name}")
    try:
        value, reason = opened(json_value(plain_bytes(path)))
        saved = Saved.model_validate(value)
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged or of another version: {_first(error)}") from None
    if reason is not None:
        why = "it holds no sha256, which only an older version left out" if reason == UNSEALED else reason
        raise CheckpointError(f"{path} is not to be believed: {why}; save the run again (`ironclip save`)")
    return saved


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
