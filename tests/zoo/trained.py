"""Defences of each family, trained for a short time on the backbone `mini` and images of `shapes` (64 pixels a side)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import nn

import ironclip
from zoo.base import Bench, pictures
from zoo.parts import Around

FAMILIES = {
    "zero-shot": "zero_shot",
    "prompts and refiners": "nap",
    "masked weights": "advmask",
    "fine-tuned image encoder": "tecoa",
    "defended representation": "defeat",
}


def _defence(method: str, backbone: str = "mini") -> Callable[[Bench], nn.Module]:
    def make(bench: Bench) -> nn.Module:
        data = ironclip.dataset("shapes", shots=2)
        settings = {} if method == "zero_shot" else {"epochs": 1}
        return ironclip.fit(method, ironclip.load(backbone), data, root=Path(mkdtemp()), **settings).eval()

    return make


def _bfloat16(bench: Bench) -> nn.Module:
    def rule(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(images).float()

    return Around(_defence("zero_shot", "mini-robust")(bench), rule)


TRAINED = {f"{family} ({method})": _defence(method) for family, method in FAMILIES.items()} | {
    "mini-robust": _defence("zero_shot", "mini-robust"),
    "mini-robust in bfloat16": _bfloat16,
}


def larger_pictures(bench: Bench) -> Bench:
    """The bench with images of the backbone's size."""
    images, labels = pictures("test", 3 * bench.many, side=64)
    return replace(bench, images=images, labels=labels)
