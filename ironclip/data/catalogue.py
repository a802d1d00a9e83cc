"""The data sets known by name and the prompt templates, read from JSON; imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from ironclip.core.errors import UsageError, unknown
from ironclip.data.records import TEMPLATE

Layout = Literal[
    "generated", "coop", "aircraft", "imagenet", "imagenet_numbers", "imagenet_wnids", "tiny_imagenet", "torchvision"
]
TEMPLATE_KINDS = ("single", "ensemble", "tecoa")


@dataclass(frozen=True)
class Entry:
    """Facts about a set, known before it is downloaded.

    images: places below a data root that may hold it; split: the file with its official lists; counts: train, val, test;
    torchvision: the class that can read it, and arguments: those of each split; dead: its download no longer works.
    """

    name: str
    layout: Layout
    classes: int
    licence: str
    source: str
    counts: tuple[int, int, int] | None = None
    images: tuple[str, ...] = ()
    split: str | None = None
    torchvision: str | None = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dead: bool = False

    @property
    def downloads(self) -> bool:
        """Whether torchvision can fetch the images."""
        return self.torchvision is not None and not self.dead

    def how(self) -> str:
        """How to get the set, in one sentence."""
        if self.layout == "generated":
            return "always there: drawn when needed"
        steps = (
            f"`ironclip data prepare {self.name}` downloads it" if self.downloads else f"get it from its source ({self.source})"
        )
        if self.images and self.layout != "torchvision":
            steps += f"; images in <data root>/{self.images[0]}"
        if self.split:
            home = self.images[0].split("/")[0]
            steps += f"; split file {self.split}, linked in DATASETS.md of KaiyangZhou/CoOp, in <data root>/{home}"
        return steps


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Entry]:
    """Every set known by name."""
    found = json.loads(resources.files("ironclip.data").joinpath("catalogue.json").read_text(encoding="utf-8"))
    return {name: Entry(name=name, **_tuples(facts)) for name, facts in found.items()}


def _tuples(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}


def entry(name: str) -> Entry:
    """The set with this name.

    Raises:
        UsageError: no such name.
    """
    if name not in catalogue():
        raise unknown("data set", name, catalogue())
    return catalogue()[name]


@lru_cache(maxsize=4)
def _templates(kind: str) -> dict[str, str | list[str]]:
    return json.loads(resources.files("ironclip.data").joinpath("templates", f"{kind}.json").read_text(encoding="utf-8"))


def templates_of(name: str, kind: str = "single") -> tuple[str, ...]:
    """The prompt templates used with a data set; `{}` stands for the class name.

    Args:
        kind: `single`: the one of CoOp and its descendants, "a photo of a {}." for sets without one; `ensemble`: those
            published with CLIP; `tecoa`: that of the zero-shot suite of TeCoA.

    Raises:
        UsageError: no such kind, or none of this kind for the set.
    """
    if kind not in TEMPLATE_KINDS:
        raise unknown("kind of templates", kind, TEMPLATE_KINDS)
    known = _templates(kind)
    if name not in known:
        if kind == "single":
            return (TEMPLATE,)
        raise UsageError(f"there are no {kind} templates for {name!r}; known for {', '.join(known)}")
    found = known[name]
    return (found,) if isinstance(found, str) else tuple(found)


def choose_templates(name: str, templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """The templates that a user asked for: none (`single`), a kind, one template, or several."""
    if templates is None:
        return templates_of(name)
    if isinstance(templates, str):
        return (templates,) if "{}" in templates else templates_of(name, templates)
    return tuple(templates)
