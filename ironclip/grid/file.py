"""A grid file: which runs, and what is measured on each. Imports no torch.

    name: few-shot
    defaults: {backbone: mini, eps: 1/255, set: {epochs: 10}}
    runs:
      - {method: zero_shot, dataset: [caltech101, eurosat]}
      - {method: [apt, nap], dataset: [caltech101, eurosat], shots: [1, 4, 16], seed: [1, 2, 3]}
      - {method: nap, dataset: eurosat, variant: {image: {sides: image}, text: {sides: text}}}
    evaluate:
      - {attacks: [pgd], set: {steps: 100}, eps: [1/255, 4/255], limit: 200}

A list stands for one cell per entry; a block of runs is the product of its lists. `set` are settings as in `train --set`,
`variant` names several such settings, `preset` may hold `{method}`.
"""

from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ironclip.attacks import DEFAULT
from ironclip.core.errors import UsageError, unknown
from ironclip.core.files import disk_errors
from ironclip.core.texts import plain_bytes, yaml_value
from ironclip.core.threat import Knowledge, Norm, parse_eps
from ironclip.protocols.config import RunConfig, assigned, merged, validated

OWN = ("set", "variant", "preset")


class Measure(BaseModel):
    """One evaluation of every run (or of the runs of `methods`, or of those whose settings are as in `only`), at each radius.

    Args:
        set: options of the attacks. norm: in whose units the radii are; l2 has no default radius.
        knowledge: as in `evaluate --knowledge`; source: for transfer, the backbone or the run on which images are made.
        data: another data set than the one trained on; None: that one. suite: a list of data sets
            instead, such as "clean". subset: which of its classes ("all", "base", "new").
        test_time: a test-time method put on the trained classifier.
        distortion: also how far the attacks move the features.
        targeted: also how often they reach the class that this rule chooses, as in `evaluate --targeted`.
        only: settings of the runs that are measured, such as {dataset: caltech101, shots: [4, 16]}, or their variant ("": none);
            default: all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attacks: tuple[str, ...] = (DEFAULT,)
    set: dict[str, Any] = {}
    norm: Norm = "linf"
    eps: tuple[float, ...] = (4 / 255,)
    knowledge: Knowledge = "white-box"
    source: str | None = None
    data: str | None = None
    suite: str | None = None
    subset: Literal["all", "base", "new"] | None = None
    test_time: str | None = None
    split: Literal["test", "val", "train"] = "test"
    limit: int | None = Field(default=None, ge=1)
    seed: int = 0
    batch_size: int = Field(default=100, ge=1)
    distortion: bool = False
    targeted: str | None = None
    methods: tuple[str, ...] = ()
    only: dict[str, Any] = {}

    @property
    def at_once(self) -> int | None:
        """Images at once, as `measure.prepare` takes them: the number if one was given."""
        return self.batch_size if "batch_size" in self.model_fields_set else None

    @property
    def unused(self) -> list[str]:
        """Fields that came later and say nothing here: the identity of a cell leaves them out."""
        later = ("distortion", "suite", "source", "targeted")
        return [name for name in later if not getattr(self, name)] + ["norm"] * (self.norm == "linf")

    @property
    def changes(self) -> list[str]:
        """`set` as "key=value": a text is read as on the command line (1/255 is a number), any other value is that value."""
        return [f"{key}={value}" if isinstance(value, str) else assigned({key: value})[0] for key, value in self.set.items()]

    @field_validator("eps", mode="before")
    @classmethod
    def _radii(cls, value: Any, info: ValidationInfo) -> tuple[float, ...]:
        norm = info.data.get("norm", "linf")
        return tuple(parse_eps(each, norm) for each in (value if isinstance(value, list | tuple) else [value]))

    @model_validator(mode="after")
    def _own_radius(self) -> "Measure":
        if self.norm != "linf" and "eps" not in self.model_fields_set:
            raise ValueError(f"norm {self.norm} needs a radius of its own, for example eps: 0.5; got none")
        return self

    @field_validator("attacks", "methods", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


class GridFile(BaseModel):
    """The file as it stands; `plan.cells` makes cells of it.

    Args:
        shard_above: measures of more images are divided into shards of at most so many, so that several workers do one cell.
        processes: that train one run together, on GPUs one per device; a method that looks across a batch is trained by one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str = ""
    shard_above: int | None = Field(default=None, ge=1)
    processes: int = Field(default=1, ge=1, le=1024)
    defaults: dict[str, Any] = {}
    runs: list[dict[str, Any]] = Field(min_length=1)
    evaluate: list[Measure] = []

    def settings(self) -> list[dict[str, Any]]:
        """One mapping per cell, in the order of the file: keys of `RunConfig`, and `set`, `preset`, `variant` (its name)."""
        return [cell for block in self.runs for cell in _product(merged(self.defaults, block))]


def read(path: Path) -> GridFile:
    """The grid of a file.

    Raises:
        UsageError: no such file, no YAML, an unknown key, or a value that cannot be right.
    """
    if not path.is_file():
        raise UsageError(f"there is no grid file {path}; write one, or take one of grids/")
    with disk_errors(path):
        content = plain_bytes(path)
    try:
        values = yaml_value(content.decode())
    except ValueError as error:
        raise UsageError(f"{path}: {error}; a grid file has name, runs and evaluate") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold keys and values (name, runs, evaluate); got {type(values).__name__}")
    return validated(GridFile, values)


def _product(block: dict[str, Any]) -> list[dict[str, Any]]:
    known = [*RunConfig.model_fields, *OWN]
    for key in block:
        if key not in known:
            raise unknown("key of a grid's runs", key, known)
    variants = block.pop("variant", None) or {"": {}}
    if not isinstance(variants, dict) or any(not isinstance(value, dict) for value in variants.values()):
        raise UsageError(f"variant maps a name to settings, such as {{image: {{sides: image}}}}; got {variants!r}")
    common = block.pop("set", {})
    axes = [[(key, value) for value in (values if isinstance(values, list) else [values])] for key, values in block.items()]
    empty = [key for key, values in block.items() if values == []]
    if empty:
        raise UsageError(f"{empty[0]} is an empty list; give at least one value")
    return [
        {**dict(chosen), "set": {**common, **changes}, "variant": name}
        for chosen in product(*axes)
        for name, changes in variants.items()
    ]
