"""The configuration of one run: validated, printable, hashable. Imports no torch."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from ironclip.core.errors import UsageError, unknown
from ironclip.core.permits import refuse_reserved
from ironclip.core.precision import Precision
from ironclip.core.schedule import Schedule
from ironclip.core.shown import number_of
from ironclip.core.texts import yaml_value
from ironclip.core.threat import Norm, format_eps, parse_eps
from ironclip.protocols.outside import refuse_code

M = TypeVar("M", bound=BaseModel)
FRACTION = r"\d+(\.\d+)?/\d+"
SCHEDULE = [field.name for field in fields(Schedule)]


class AttackConfig(BaseModel):
    """An attack of the catalogue and its options; norm and eps come from the run.

    Args:
        relative_step: step size over eps; None: the attack's own default or `step_size` among the options.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "pgd"
    relative_step: float | None = None

    @model_validator(mode="after")
    def _own_options(self) -> "AttackConfig":
        for option in self.options:
            refuse_reserved(option)
        return self

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RunConfig(BaseModel):
    """All settings that affect what a run learns.

    Args:
        weights, base, activation: of the backbone, as for `backbones.load`.
        files: sha256 of each file of this machine that backbone, weights and base name, by absolute path (`protocols.frozen`).
        dataset: a name or a path; classes: file with class names for a folder; subset: classes that are used.
        layout: what its folders mean, where that is not clear (`data.roles.parse_layout`).
        shots: training images per class; None: all.
        strict_shots: refuse a class with fewer images than shots (CoOp takes what there is).
        split_seed: draws the shots; seed: draws everything else.
        norm: of the training attack. eps: its radius, in the unit of the images.
        crop_area: of `rrc_flip`: smallest share of the image that a random crop covers.
        precision: of the training and its inner attacks; evaluations compute in float32 always.
        templates: hand-written prompts of the data set: "single", "ensemble", or texts with {} for the class name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    options: dict[str, Any] = {}
    backbone: str = "mini"
    weights: str | None = None
    base: str | None = None
    activation: Literal["gelu", "quick_gelu"] | None = None
    files: dict[str, str] = {}
    dataset: str
    classes: str | None = None
    layout: str = "auto"
    subset: Literal["all", "base", "new"] = "all"
    shots: int | None = Field(default=16, ge=1)
    strict_shots: bool = True
    split_seed: int = 1
    seed: int = 1
    norm: Norm = "linf"
    eps: float = 4 / 255
    templates: str | list[str] = "single"
    augment: Literal["rrc_flip", "none", "squash"] = "rrc_flip"
    crop_area: float = Field(default=0.08, gt=0, le=1)
    schedule: Schedule = Schedule()
    attack: AttackConfig = AttackConfig()
    precision: Precision = "float32"
    preset: str = ""
    source: str = ""

    @field_validator("options")
    @classmethod
    def _no_code(cls, options: dict[str, Any]) -> dict[str, Any]:
        refuse_code(options)
        return options

    @field_validator("eps", mode="before")
    @classmethod
    def _radius(cls, value: Any, info: ValidationInfo) -> float:
        return parse_eps(value, info.data.get("norm", "linf"))

    def as_dict(self) -> dict[str, Any]:
        """JSON values. Settings of older runs that had no choice are left out at their default, because the values identify the
        run."""
        usual: dict[str, Any] = {
            "norm": "linf",
            "layout": "auto",
            "base": None,
            "activation": None,
            "files": {},
            "crop_area": 0.08,
            "precision": "float32",
        }
        return self.model_dump(mode="json", exclude={key for key, value in usual.items() if getattr(self, key) == value})

    def __str__(self) -> str:
        shots = "all images" if self.shots is None else number_of(self.shots, "shot")
        eps = f"eps {format_eps(self.eps)}" if self.norm == "linf" else f"{self.norm} eps {format_eps(self.eps, self.norm)}"
        return f"{self.method} on {self.dataset} with {self.backbone}, {shots}, {eps}, seed {self.seed}"


def configure(values: Mapping[str, Any]) -> RunConfig:
    """The validated configuration of a run; errors as in `validated`."""
    return validated(RunConfig, values)


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The model of these values.

    Raises:
        UsageError: an unknown key (with the nearest one) or a value that cannot be right, in one line.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a misspelt key before a missing one
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("setting", where, _keys(model)) from None
        if first["type"] == "missing":
            raise UsageError(f"{where} is missing") from None
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        raise UsageError(reason if "got" in reason else f"{where}: {reason}; got {first['input']!r}") from None


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, nested mappings merged."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def settings(pairs: Sequence[str], method_options: Sequence[str], method: str = "") -> dict[str, Any]:
    """Nested values of "--set key=value" arguments.

    A key is dotted (`schedule.epochs`, `attack.steps`, `options.length`) or the last part alone where that is clear.
    Values are YAML; "4/255" is a number.

    Raises:
        UsageError: no "=", or a key that is nowhere.
    """
    found: dict[str, Any] = {}
    for key, value in values_of(pairs).items():
        path = _path(key, method_options, method)
        here = found
        for part in path[:-1]:
            here = here.setdefault(part, {})
        here[path[-1]] = value
    return found


def values_of(pairs: Sequence[str]) -> dict[str, Any]:
    """The values of "key=value" arguments by key, read as YAML; "4/255" is a number."""
    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value; got {pair!r}")
        found[key.strip()] = _value(text.strip())
    return found


def assigned(values: Mapping[str, Any]) -> list[str]:
    """The "key=value" arguments that `values_of` reads as these values, in the order of their keys."""
    return [f"{key}={_written(value)}" for key, value in sorted(values.items())]


def _written(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(FRACTION, value):
        return f"'{value}'"  # bare, it would be read as a number
    plain = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _path(key: str, method_options: Sequence[str], method: str) -> list[str]:
    see = f"ironclip list options {method}" if method else ""
    if key in method_options:
        return ["options", key]
    if not key.startswith("options."):
        refuse_reserved(key)
    head, _, rest = key.partition(".")
    if head in ("options", "schedule", "attack") and rest:
        known = {"options": method_options, "schedule": SCHEDULE}.get(head)
        if known is not None and rest not in known:
            raise unknown(f"key of {head}", rest, known, see=see)
        return [head, rest]
    if key in RunConfig.model_fields:
        return [key]
    if key in SCHEDULE:
        return ["schedule", key]
    if key in ("steps", "restarts", "step_size", "relative_step", "start", "keep", "loss"):
        return ["attack", key]
    kind = f"setting of {method}" if method else "setting"
    every = [*method_options, *_keys(RunConfig), *SCHEDULE, "attack.steps"]
    near = difflib.get_close_matches(key, every, n=1, cutoff=0.5)
    raise unknown(kind, key, every if near or not method_options else method_options, see=see)


def _keys(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


def _value(text: str) -> Any:
    if re.fullmatch(FRACTION, text):
        return parse_eps(text, "l2")
    try:
        return yaml_value(text)
    except ValueError:
        raise UsageError(f"--set takes YAML values; cannot read {text!r}") from None
