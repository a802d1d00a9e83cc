"""Token statistics of views and of source images, and distances between them.

Source: xinwong/TAPT (`trainers/adv_vli.py`: onestage_align_loss, multistage_align_loss, compute_mmd, compute_js_div).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError
from ironclip.core.files import check_head, write_whole
from ironclip.core.tensors import doubled
from ironclip.core.types import Trace

SWITCH, STEEPNESS = 0.5, 2.0  # of the two-stage mixture


@dataclass(frozen=True)
class Moments:
    """Mean and variance over images (or views) of the inputs of blocks: [..., L, N, D] each."""

    mean: Tensor
    variance: Tensor

    def like(self, other: Tensor, layers: range) -> "Moments":
        """Those of these layers, on the device and in the precision of `other`."""
        return Moments(*(kept[layers.start : layers.stop].to(other) for kept in (self.mean, self.variance)))


@dataclass(frozen=True)
class Source:
    """What views are drawn to: statistics of source images, adversarial and clean; [L, N, D], all layers of the tower.

    They fit one backbone with one set of prompts. N counts class token, patches and appended prompts.
    """

    adversarial: Moments
    clean: Moments

    def save(self, file: Path) -> None:
        """As .safetensors; `load` reads it."""
        tensors = {
            "adversarial.mean": self.adversarial.mean, "adversarial.variance": self.adversarial.variance,
            "clean.mean": self.clean.mean, "clean.variance": self.clean.variance,
        }  # fmt: skip
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(file, lambda temporary: save_file(whole, temporary))

    @staticmethod
    def load(file: Path) -> "Source":
        """UsageError where the file is missing or holds something else."""
        try:
            check_head(file)
            found = load_file(file)
            pairs = [Moments(found[f"{kind}.mean"], found[f"{kind}.variance"]) for kind in ("adversarial", "clean")]
        except (OSError, SafetensorError, KeyError) as error:
            raise UsageError(f"{file}: no source statistics ({error}); write it with Source.save, or use source=train") from None
        return Source(*pairs)


def moments(tokens: Tensor) -> Moments:
    """Over views [..., V, N, D]: mean and biased variance [..., N, D]. The paper divides by V - 1, the code by V."""
    return Moments(tokens.mean(-3), tokens.var(-3, correction=0))


class Running:
    """Mean and unbiased variance over batches of images, summed in float64 (Chan's update)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.spread: Tensor | float = 0.0
        self.place = torch.device("cpu")

    def add(self, tokens: Tensor) -> None:
        """tokens [B, L, N, D]."""
        self.place = tokens.device
        tokens = doubled(tokens)
        own, part, total = tokens.mean(0), len(tokens), self.count + len(tokens)
        shift = own - self.mean
        self.spread = self.spread + (tokens - own).square().sum(0) + shift.square() * (self.count * part / total)
        self.mean, self.count = self.mean + shift * (part / total), total

    def moments(self) -> Moments:
        """[L, N, D], float32; UsageError where there were fewer than two images."""
        if self.count < 2:
            raise UsageError(f"source statistics need at least two training images; got {self.count}")
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.spread, Tensor)
        spread = self.spread / (self.count - 1)
        return Moments(self.mean.float().to(self.place), spread.float().to(self.place))


def block_inputs(classifier: AdaptedClassifier, images: Tensor) -> Tensor:
    """[B, L, N, D] tokens in front of all blocks, prompts among them; no gradients."""
    layers = range(classifier.backbone.spec.image_layers)
    trace = Trace(layers=layers)
    with torch.no_grad():
        classifier.encode_image(images, trace=trace)
    return torch.stack([trace.inputs[layer] for layer in layers], dim=1)


def source_moments(classifier: AdaptedClassifier, batches: Iterable[Tensor]) -> Moments:
    """Over all images of the batches [B, 3, S, S]: mean and unbiased variance [L, N, D] of the inputs of all blocks."""
    running = Running()
    for images in batches:
        running.add(block_inputs(classifier, images))
    return running.moments()


def alignment(kind: str, views: Moments, source: Moments, *, sigma: float = 1.0, step: int = 0, steps: int = 1) -> Tensor:
    """[B] distance of the views' moments [B, L, N, D] from the source's [L, N, D], summed over these layers.

    Args:
        kind: a name of `KINDS`, or "multi": from MMD to l1 as the steps go on.
        sigma: width of MMD's kernel.
        step, steps: number of this step from 0, and of all; of "multi".
    """
    if kind == "multi":
        late = 1 / (1 + math.exp(-STEEPNESS * (step - steps * SWITCH)))
        return (1 - late) * mmd(views, source, sigma).sum(-1) + late * l1(views, source).sum(-1)
    if kind == "mmd":
        return mmd(views, source, sigma).sum(-1)
    return SIMPLE[kind](views, source).sum(-1)


def l1(a: Moments, b: Moments) -> Tensor:
    """[..., L] half the mean absolute difference of means, and half that of variances."""
    return ((a.mean - b.mean).abs() + (a.variance - b.variance).abs()).mean((-2, -1)) / 2


def l2(a: Moments, b: Moments) -> Tensor:
    """[..., L] the same with squares."""
    return ((a.mean - b.mean).square() + (a.variance - b.variance).square()).mean((-2, -1)) / 2


def mmd(a: Moments, b: Moments, sigma: float = 1.0) -> Tensor:
    """[..., L] maximum mean discrepancy of the mean tokens, each token a sample; Gaussian kernel."""
    x, y = a.mean, b.mean
    return _kernel(x, x, sigma).mean((-2, -1)) + _kernel(y, y, sigma).mean((-2, -1)) - 2 * _kernel(x, y, sigma).mean((-2, -1))


def kl(a: Moments, b: Moments) -> Tensor:
    """[..., L] divergence of the softmax over the width of the views' mean tokens from the source's, mean over tokens."""
    return _divergence(a.mean, b.mean)


def js(a: Moments, b: Moments) -> Tensor:
    """[..., L] half the divergences from the mean; the mean is taken before the softmax, as released."""
    middle = (a.mean + b.mean) / 2
    return (_divergence(a.mean, middle) + _divergence(b.mean, middle)) / 2


def _kernel(x: Tensor, y: Tensor, sigma: float) -> Tensor:
    squares = x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :]
    distances = squares - 2 * x @ y.transpose(-1, -2)  # the differences themselves would take N N D numbers
    return (-distances.clamp_min(0) / (2 * sigma**2)).exp()


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    wanted = target.log_softmax(-1)
    return (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1).mean(-1)


SIMPLE: dict[str, Callable[[Moments, Moments], Tensor]] = {"l1": l1, "l2": l2, "kl": kl, "js": js}
KINDS = ("l1", "l2", "mmd", "kl", "js", "multi")
