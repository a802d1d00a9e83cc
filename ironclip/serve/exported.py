"""Exported files as classifiers: they need neither the run nor its backbone. They run on the CPU."""

import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ironclip.core.display import facts_html, listed
from ironclip.core.errors import CheckpointError, UsageError
from ironclip.core.types import Images
from ironclip.protocols.classify import Prediction, predict
from ironclip.serve import onnx_bytes
from ironclip.serve.facts import KEY, Facts, read_facts

LARGEST_FACTS = 1 << 26  # bytes of text; those of 100,000 classes take a few millions


class ExportedClassifier:
    """images [B, 3, R, R] float32 in [0, 1] -> logits [B, K], as computed by a file; no gradients."""

    device = torch.device("cpu")

    def __init__(self, path: Path, facts: Facts, function: Images) -> None:
        self.path, self.facts, self._function = path, facts, function

    @property
    def classes(self) -> tuple[str, ...]:
        return self.facts.classes

    @property
    def resolution(self) -> int:
        return self.facts.resolution

    def __call__(self, images: Tensor) -> Tensor:
        side = self.resolution
        if images.ndim != 4 or images.shape[1:] != (3, side, side) or images.dtype != torch.float32:
            kind = str(images.dtype).removeprefix("torch.")
            raise UsageError(f"{self.path.name} takes float32 images [B, 3, {side}, {side}]; got {kind} {tuple(images.shape)}")
        if not len(images):
            return images.new_empty(0, len(self.classes))
        with torch.no_grad():
            return self._checked(images.cpu())

    def _checked(self, images: Tensor) -> Tensor:
        """What the graph answers, which nobody knows before it ran.

        Raises:
            CheckpointError: it fails, or gives something else than float32 logits [B, K].
        """
        try:
            logits = self._function(images)
        except Exception as error:  # whatever a runtime raises about a stranger's graph
            raise CheckpointError(f"{self.path}: its graph fails on images: {_first(error)}; export it again") from None
        wanted = (len(images), len(self.classes))
        if not isinstance(logits, Tensor) or logits.dtype != torch.float32 or logits.shape != wanted:
            got = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise CheckpointError(f"{self.path}: its graph gives {got.removeprefix('torch.')}, no float32 logits {list(wanted)}")
        return logits

    def classify(self, *images: str | Path, top: int = 3) -> list[Prediction]:
        """The most probable classes of images or of folders of images; unreadable ones are left out."""
        return predict(self, [Path(image) for image in images], top=top)[0]

    def __repr__(self) -> str:
        facts = self.facts
        return f"ExportedClassifier({self.path.name}: {facts.method} on {facts.backbone.name}, {len(self.classes)} classes)"

    def _repr_html_(self) -> str:
        facts = {"file": self.path, "backbone": self.facts.backbone.name, "classes": listed(self.classes)}
        return facts_html(f"ExportedClassifier: {self.facts.method}", facts | {"images": f"{self.resolution} px"})


def open_exported(path: Path, *, trust: bool = False) -> ExportedClassifier:
    """The classifier in a .pt2 or .onnx file that `ironclip export` wrote.

    Args:
        trust: the caller trusts whoever wrote the file. A .pt2 is code: torch evaluates expressions of its text and unpickles
            parts of it. So it is opened only with trust; an .onnx file is data and needs none.

    Raises:
        UsageError: another ending, a .pt2 without trust, or onnxruntime is missing.
        CheckpointError: no such file, damaged, written by something else, or an .onnx that reaches outside itself.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise UsageError(f"an exported model is a .pt2 or an .onnx file; got {path.name!r}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".pt2" and not trust:
        raise UsageError(
            f"{path} is a .pt2, which can run any code when it is opened; if you trust who wrote it, add --trust (in Python "
            "trust=True), else ask for an .onnx file"
        )
    facts, function = _open_onnx(path) if path.suffix == ".onnx" else _open_pt2(path)
    return ExportedClassifier(path, facts, function)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Without the remarks of these loggers, below errors."""
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in before:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _open_pt2(path: Path) -> tuple[Facts, Images]:
    facts = _facts_of_archive(path)
    try:
        with quiet("torch.export"):
            program = torch.export.load(path)
    except Exception as error:  # whatever a reader of foreign bytes raises
        raise CheckpointError(f"{path} is damaged, or of another version of torch: {_first(error)}") from None
    return facts, program.module()


def _facts_of_archive(path: Path) -> Facts:
    """The facts, read without torch."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [each for each in archive.infolist() if each.filename.partition("/")[2] == f"extra/{KEY}"]
            if len(entries) == 1 and entries[0].file_size <= LARGEST_FACTS:  # no more are ever unpacked
                return read_facts(archive.read(entries[0]), path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or an encrypted archive raises almost anything
        raise CheckpointError(f"{path} is damaged: {_first(error)}") from None
    what = f"it holds no {KEY}" if not entries else f"it holds {KEY} twice, or one of more than {LARGEST_FACTS:,} bytes"
    raise CheckpointError(f"{path} was not written by `ironclip export`: {what}")


def _open_onnx(path: Path) -> tuple[Facts, Images]:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("an .onnx file needs onnxruntime; pip install 'ironclip[export]'") from None
    content = path.read_bytes()
    try:
        text = onnx_bytes.metadata(content).get(KEY)
        if text is None:
            raise CheckpointError(f"{path} was not written by `ironclip export`: it holds no {KEY}")
        facts = read_facts(text, path)
        onnx_bytes.check(content)
    except (onnx_bytes.NotOnnx, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or no model of `ironclip export`: {_first(error)}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes, all of them private
        raise CheckpointError(f"{path} is damaged or no ONNX model: {_first(error)}") from None
    side, classes = facts.resolution, len(facts.classes)
    ends = [(end.name, end.type, end.shape[1:]) for end in (*session.get_inputs(), *session.get_outputs())]
    if ends != [("images", "tensor(float)", [3, side, side]), ("logits", "tensor(float)", [classes])]:
        raise CheckpointError(
            f"{path}: its graph does not take images of {side} pixels and give {classes} logits, as its facts say"
        )

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return facts, run


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
