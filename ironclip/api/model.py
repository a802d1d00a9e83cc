"""A classifier with what it came from."""

from contextlib import closing
from pathlib import Path

from torch import Tensor, nn

from ironclip.api.progress import Bar, seen
from ironclip.backbones import ClipBackbone
from ironclip.core.display import facts_html, listed
from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of
from ironclip.core.types import Classifier
from ironclip.protocols import methods
from ironclip.protocols.classify import Prediction, predict
from ironclip.protocols.config import RunConfig
from ironclip.protocols.experiment import Experiment
from ironclip.protocols.few_shot import open_run
from ironclip.records.folder import RunFolder, is_run
from ironclip.records.record import Record
from ironclip.serve.export import SUFFIXES, Exported
from ironclip.serve.export import export as export_experiment
from ironclip.serve.facts import own_records
from ironclip.serve.hub import Pretrained, copy_saved, load_pretrained, publish, push_to_hub, save_pretrained


class Model(nn.Module):
    """A classifier with what it came from; any attack can be handed it: images [B, 3, R, R] float32 in [0, 1] -> logits [B, K].

    Made by `fit`, `zero_shot`, `test_time` and `from_pretrained`, not by hand.
    """

    def __init__(self, experiment: Experiment | None, run: RunFolder | None, pretrained: Pretrained | None = None) -> None:
        super().__init__()
        source = experiment or pretrained
        if source is None:
            raise UsageError("a model comes from `fit`, `zero_shot` or `Model.from_pretrained`")
        self.experiment, self.run, self.pretrained = experiment, run, pretrained
        self.classifier: Classifier = source.classifier
        self.backbone: ClipBackbone = source.backbone
        self.config: RunConfig = source.config
        self.eval()

    @classmethod
    def from_pretrained(
        cls, target: str | Path, *, backbone: ClipBackbone | str | None = None, device: str = "cpu", revision: str | None = None
    ) -> "Model":
        """The model in a folder of `save_pretrained`, in a hub repository ("org/name"), or in a run's folder.

        Args:
            backbone: the frozen model of a saved folder or its name, where the folder must not choose it or it is loaded already.
            revision: branch, tag or commit on the hub.

        Raises:
            UsageError: an exported file, which is no model to train or attack.
            CheckpointError: not there, damaged, or learned on other frozen weights than these.
        """
        path = Path(target)
        if path.suffix in SUFFIXES:
            raise UsageError(f"{path.name} is an exported file, a fixed graph; open it with ironclip.load_classifier")
        if is_run(path):
            run, experiment = open_run(path, device=device)
            return cls(experiment, run)
        return cls(None, None, load_pretrained(target, device=device, backbone=backbone, revision=revision))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.classes

    @property
    def method(self) -> str:
        return methods.full(self.config.method)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images)

    def classify(self, *images: str | Path, top: int = 3) -> list[Prediction]:
        """The most probable classes of images or of folders of images; unreadable ones are left out."""
        with closing(Bar("classify", hidden=not seen())) as bar:
            return predict(self, [Path(image) for image in images], top=top, progress=bar.count)[0]

    def records(self) -> list[Record]:
        """What was measured of this model's run so far."""
        return [] if self.experiment is None else own_records(self.run, self.experiment)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Learned tensors, facts and a model card in a small folder; `from_pretrained` reads it."""
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
        return f"Model({self.method} on {self.backbone.spec.name}, {number_of(len(self.classes), 'class')})"

    def _repr_html_(self) -> str:
        facts = {"backbone": repr(self.backbone), "classes": listed(self.classes)}
        if self.experiment is not None:
            learned = sum(tensor.numel() for tensor in self.experiment.defense.parameters())
            facts |= {"data": str(self.experiment.dataset), "learned parameters": f"{learned:,}"}
        place = self.run.path if self.run is not None else self.pretrained.folder if self.pretrained is not None else ""
        known = self.records() if self.pretrained is None else self.pretrained.saved.facts.measured
        facts |= {"lies in": str(place), "measured": "; ".join(map(str, known)) or "nothing so far"}
        return facts_html(f"Model: {self.method}", facts)
