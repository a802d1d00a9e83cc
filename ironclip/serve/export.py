"""A trained classifier as one file that needs neither the run nor this package: torch.export (.pt2) or ONNX (.onnx).

The graph takes images [B, 3, R, R] float32 in [0, 1], for any B, and returns logits [B, K]. Normalisation, prompts, refiners and
heads are inside; masks and tuned weights are folded into the tower; text features are constants, so the text tower is not in the
file.
"""

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.core.files import disk_errors, write_whole
from ironclip.core.types import ImageOutput
from ironclip.protocols.experiment import Experiment
from ironclip.records.record import Record
from ironclip.records.verified import sealed
from ironclip.serve.exported import open_exported, quiet
from ironclip.serve.facts import KEY, Facts, facts_of

SUFFIXES = (".pt2", ".onnx")
TOLERANCE = 1e-5
BATCHES = (1, 7)  # sizes other than that of the example, so that a graph that fixed its batch shows
LARGEST = 2**16


class Fixed(nn.Module):
    """images -> logits with everything folded in that does not depend on the images; shares no tensor with the backbone."""

    mean: Tensor
    std: Tensor
    text_features: Tensor

    def __init__(self, classifier: AdaptedClassifier) -> None:
        super().__init__()
        constant = classifier.detached()
        self.image = copy.deepcopy(constant.backbone.image)  # type: ignore[attr-defined]
        with torch.no_grad():
            for name, value in constant.image_weights.items():
                self.image.weight(name).copy_(value)
        for name in ("mean", "std"):
            self.register_buffer(name, getattr(constant.backbone, name).clone())
        self.register_buffer("text_features", constant.text_features.clone())
        adaptation = copy.deepcopy(constant.adaptation)
        self.pixels, self.edits = adaptation.pixels, adaptation.image_edits
        self.head = adaptation.head or constant.head
        parts: tuple[Any, ...] = (*self.pixels, *self.edits)
        self.borrowed = nn.ModuleList([part for part in parts if isinstance(part, nn.Module)])
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        for change in self.pixels:
            images = change(images)
        trace = self.head.trace()
        features = self.image((images - self.mean) / self.std, edits=self.edits, trace=trace)
        return self.head(ImageOutput(features, trace), self.text_features)


@dataclass(frozen=True, repr=False)
class Exported:
    """A file that was written and read again.

    Args:
        logits, probabilities: largest absolute differences from the run's classifier on probe images.
        scale: largest absolute logit there.
    """

    path: Path
    facts: Facts
    logits: float
    probabilities: float
    scale: float

    @property
    def relative(self) -> float:
        """The difference of the logits over the largest of them."""
        return self.logits / max(self.scale, 1.0)

    def __repr__(self) -> str:
        return f"Exported({self.path.name}: {self.facts.method} on {self.facts.backbone.name})"

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.path.stat().st_size / 1e6:.1f} MB, equal to the run: logits differ by at most {self.logits:.1e} "
            f"({self.relative:.1e} of the largest), probabilities by {self.probabilities:.1e}"
        )


def export(experiment: Experiment, path: Path, *, records: Iterable[Record] = ()) -> Exported:
    """Write the classifier of a trained experiment, open what was written and compare it with the classifier.

    Args:
        path: a name ending in .pt2 or .onnx; an existing file is replaced only by one that passed the comparison.
        records: what was measured of the run; it travels in the file.

    Raises:
        UsageError: another ending, a test-time method, or a package of the extra `export` that is missing.
        CheckpointError: the file does not compute what the run does within `TOLERANCE`.
    """
    check_exportable(experiment, path)
    classifier = experiment.base
    facts = facts_of(experiment, records)
    write = write_onnx if path.suffix == ".onnx" else write_pt2
    fixed = Fixed(classifier).cpu()
    found: list[Exported] = []

    def write_and_check(temporary: Path) -> None:
        write(fixed, facts, temporary)
        found.append(compare(temporary, classifier, facts))

    with disk_errors(path):
        write_whole(path, write_and_check, ending=path.suffix)  # readers go by it
    (made,) = found
    return Exported(path, facts, made.logits, made.probabilities, made.scale)


def check_exportable(experiment: Experiment, path: Path) -> None:
    """Raises UsageError where the experiment or the file's name cannot be exported."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"an exported model is a .pt2 (torch.export) or an .onnx file; got {path.name!r}")
    if experiment.test_time is not None:
        above = experiment.config.method.rpartition("+")[2]
        raise UsageError(
            f"{above} adapts to every image by its own gradient steps or views inside the call, which a fixed graph cannot hold; "
            "export the run without it"
        )


def compare(path: Path, classifier: AdaptedClassifier, facts: Facts) -> Exported:
    """What the file answers against what the classifier does, on probe images in batches of several sizes.

    Raises:
        CheckpointError: they differ by more than `TOLERANCE`.
    """
    opened = open_exported(path, trust=True)  # written here a moment ago
    logits = probabilities = scale = 0.0
    for size in BATCHES:
        images = probes(size, facts.resolution)
        with torch.no_grad():
            theirs = classifier(images.to(classifier.text_features.device)).cpu()
        ours = opened(images)
        logits = max(logits, float((ours - theirs).abs().max()))
        probabilities = max(probabilities, float((ours.softmax(1) - theirs.softmax(1)).abs().max()))
        scale = max(scale, float(theirs.abs().max()))
    made = Exported(path, facts, logits, probabilities, scale)
    if not (made.relative <= TOLERANCE and probabilities <= TOLERANCE):
        raise CheckpointError(
            f"the exported {path.suffix} differs from the run by {logits:.1e} in a logit ({made.relative:.1e} of the largest) "
            f"and {probabilities:.1e} in a probability, more than {TOLERANCE:g}; nothing was kept"
        )
    return made


def probes(count: int, resolution: int) -> Tensor:
    """[count, 3, R, R] images in [0, 1]: smooth images and noise in turn, the same ones every time."""
    draw = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, 3, 4, 4, generator=draw)
    smooth = F.interpolate(coarse, size=resolution, mode="bicubic", align_corners=False).clamp(0, 1)
    noise = torch.rand(count, 3, resolution, resolution, generator=draw)
    return torch.where(torch.arange(count)[:, None, None, None] % 2 == 1, noise, smooth)


def traced(fixed: Fixed, resolution: int) -> Any:
    """The graph as torch.export's program, its batch size left open."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST)
    with torch.no_grad():
        example = (torch.rand(2, 3, resolution, resolution),)
        return torch.export.export(fixed, example, dynamic_shapes={"images": {0: batch}}, strict=False)


def write_pt2(fixed: Fixed, facts: Facts, path: Path) -> None:
    program = traced(fixed, facts.resolution)
    program._example_inputs = None  # they would be the only pickled part of the file
    torch.export.save(program, path, extra_files={KEY: json.dumps(sealed(facts))})


def write_onnx(fixed: Fixed, facts: Facts, path: Path) -> None:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401 - what torch.onnx needs
    except ImportError as missing:
        raise UsageError(f"{missing.name} is not installed; pip install 'ironclip[export]'") from None
    with quiet("onnxscript", "onnx_ir", "torch.onnx"):  # remarks on every operator that is left alone
        program = torch.onnx.export(traced(fixed, facts.resolution), dynamo=True, verbose=False)
    assert program is not None
    graph = program.model.graph
    for value, name in ((graph.inputs[0], "images"), (graph.outputs[0], "logits")):
        value.name = name
        value.shape = onnx_ir.Shape(["batch", *list(value.shape or ())[1:]])
    program.model.metadata_props[KEY] = json.dumps(sealed(facts))
    program.save(path, external_data=False)
