"""The names of rows and columns: methods with the settings that distinguish their runs, and data sets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironclip.records.record import Record

UNSETTLED = object()
SAME = (
    "dataset",
    "subset",
    "seed",
    "split_seed",
    "backbone",
    "weights",
    "shots",
    "classes",
    "preset",
    "source",
    "method",
    "templates",
)
"""Settings that are columns or captions of their own, or follow from others; all others tell two rows of a method apart."""


@dataclass(frozen=True)
class Entry:
    """One record and the settings of its run."""

    record: Record
    config: Mapping[str, Any]


def data_name(record: Record) -> str:
    """The data set, and the part of its classes where it is one: "eurosat-base"."""
    name, subset = record.data.name, record.data.subset
    return name if subset == "all" or name.endswith(f"-{subset}") else f"{name}-{subset}"


def labels_of(entries: Sequence[Entry]) -> list[str]:
    """The method of each entry, with the settings in which its runs on one data set differ; its preset where there are several.

    Settings that more of the runs share than any other stand for the method itself (or the preset) and are not spelled out.
    """
    presets: dict[tuple[Any, ...], set[str]] = {}
    for entry in entries:
        presets.setdefault((entry.record.method, entry.record.backbone.name), set()).add(_preset(entry))
    groups: dict[tuple[Any, ...], list[dict[str, str]]] = {}
    flat = [((*_place(entry), _preset(entry)), _flat(entry.config)) for entry in entries]
    for place, own in flat:
        groups.setdefault(place, []).append(own)
    everywhere: dict[tuple[Any, ...], list[dict[str, str]]] = {}
    for place, own in flat:
        everywhere.setdefault(_anywhere(place), []).append(own)
    usual = {place: _usual(rivals, everywhere[_anywhere(place)]) for place, rivals in groups.items()}
    labels = []
    for entry, (place, own) in zip(entries, flat):
        named = [key for key, value in usual[place].items() if value is UNSETTLED or own.get(key) != value]
        words = [f"{key.removeprefix('options.')}={_short(own.get(key))}" for key in named]
        if len(presets[entry.record.method, entry.record.backbone.name]) > 1:
            words.insert(0, _preset(entry) or "no preset")
        labels.append(f"{entry.record.method} ({', '.join(words)})" if words else entry.record.method)
    return labels


def _preset(entry: Entry) -> str:
    """The name of the preset within its method, such as "quick"."""
    return str(entry.config.get("preset") or "").rpartition("/")[2]


def _usual(rivals: Sequence[Mapping[str, str]], everywhere: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The settings in which the rivals differ, each with the value that needs no words: those of the combination that most of
    the rivals have, of tied ones that which is most frequent on all data sets; else the value of more than half of the rivals,
    or of more than half on all data sets, or UNSETTLED."""
    keys = sorted(key for key in {key for one in rivals for key in one} if len({one.get(key) for one in rivals}) > 1)

    def combination(one: Mapping[str, str]) -> tuple[str | None, ...]:
        return tuple(one.get(key) for key in keys)

    near, far = (Counter(map(combination, many)) for many in (rivals, everywhere))
    ranked = sorted(near, key=lambda values: (near[values], far[values]), reverse=True)
    first, second = ((near[values], far[values]) for values in [*ranked, *ranked][:2])
    if len(ranked) == 1 or first > second:
        return dict(zip(keys, ranked[0]))
    return {key: _majority(key, rivals, _majority(key, everywhere, UNSETTLED)) for key in keys}


def _majority(key: str, many: Sequence[Mapping[str, str]], otherwise: Any) -> Any:
    """The value that more than half of them have."""
    value, count = Counter(one.get(key) for one in many).most_common(1)[0]
    return value if 2 * count > len(many) else otherwise


def _place(entry: Entry) -> tuple[Any, ...]:
    record = entry.record
    return record.method, record.shots, record.backbone.name, data_name(record), record.trained_on


def _anywhere(place: tuple[Any, ...]) -> tuple[Any, ...]:
    """A place and preset without the data sets."""
    method, shots, backbone, _, _, preset = place
    return method, shots, backbone, preset


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if not prefix and key in SAME:
            continue
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: str(value)}
    return found


def _short(value: str | None) -> str:
    if value is None:
        return "default"
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value
