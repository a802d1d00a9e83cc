"""Values from the text of a stranger's file, limited in size, depth and numbers. One ValueError says why a text is refused.

Imports no torch.
"""

import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ironclip.core.descriptors import to_read
from ironclip.core.errors import RunError

LARGEST = 1 << 28  # bytes of one file of text
LARGEST_YAML = 1 << 20
MOST_VALUES = 1_000_000  # of one YAML text, aliases counted each time
DEEPEST = 60  # lists and keys inside one another
WHOLE = 1 << 63  # whole numbers beyond it fit no column and no tensor
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values, ten times faster


def plain_bytes(path: Path, most: int = LARGEST) -> bytes:
    """The content of a plain file. A pipe or a device is refused without waiting.

    Raises:
        RunError: no plain file, or a larger one. OSError: it cannot be opened.
    """
    descriptor = to_read(path)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise RunError(f"{path} is no plain file; copy the folder again without it")
        if facts.st_size > most:
            raise RunError(f"{path} has {facts.st_size:,} bytes; at most {most:,} are read")
        return file.read(most)


def json_value(content: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no UTF-8, no JSON, too deep, a number that is not finite or beyond 64 bits, half a character, one key twice.
    """
    text = content if isinstance(content, str) else content.decode()
    try:
        value = json.loads(text, parse_constant=_not_finite, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_values(value)
    return value


def yaml_value(text: str) -> Any:
    """The value of a YAML text of plain values.

    Raises:
        ValueError: as for JSON; tags; aliases (`*name`) with which a small text stands for more than a million values.
    """
    if len(text) > LARGEST_YAML:
        raise ValueError(f"it has {len(text):,} characters; at most {LARGEST_YAML:,} are read")
    try:
        _check_events(text)
        value = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, RecursionError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"it is no YAML{f', line {mark.line + 1}' if mark else ''}") from None
    check_values(value)
    return value


def _check_events(text: str) -> None:
    """ValueError where lists are nested too deeply, a key stands twice in a mapping, or the values, those behind aliases counted
    each time, are too many."""
    total, anchors, open_ones = 0, dict[str, int](), list[tuple[str | None, int]]()
    keys: list[set[str] | None] = []  # of each open mapping; None for a list
    awaited: list[bool] = []  # whether the next node of it is a key
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.NodeEvent) and keys:
            seen = keys[-1]
            if seen is not None and awaited[-1] and isinstance(event, yaml.ScalarEvent):
                if event.value in seen:
                    mark = event.start_mark
                    raise ValueError(f"the key {event.value[:40]!r} stands twice{f', line {mark.line + 1}' if mark else ''}")
                seen.add(event.value)
            awaited[-1] = not awaited[-1]
        if isinstance(event, yaml.CollectionStartEvent):
            keys.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
            awaited.append(True)
        elif isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
            awaited.pop()
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_ones.pop()
            if anchor is not None:
                anchors[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += anchors.get(event.anchor or "", MOST_VALUES)  # one that holds itself has no end
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                open_ones.append((event.anchor, total))
            elif event.anchor is not None:
                anchors[event.anchor] = 1
            total += 1
        if len(open_ones) > DEEPEST:
            raise ValueError("it is nested too deeply")
        if total > MOST_VALUES:
            raise ValueError("its aliases (*name) stand for too many values")


def check_values(value: Any) -> None:
    """ValueError unless a value consists of mappings, lists, texts, finite 64-bit numbers, true, false and null, and is not too
    deep."""
    waiting = [(value, 1)]
    while waiting:
        here, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(here, dict):
            for key, inner in here.items():
                if not isinstance(key, str):
                    raise ValueError(f"{str(key)[:40]!r} is no key; a key is a text")
                waiting += ((key, depth), (inner, depth + 1))
        elif isinstance(here, list):
            waiting += [(inner, depth + 1) for inner in here]
        elif isinstance(here, str):
            if not here.isascii():
                here.encode()  # half a character of two cannot be written again; UnicodeEncodeError is a ValueError
        elif isinstance(here, int):
            if not -WHOLE <= here < WHOLE:
                raise ValueError("it holds a whole number beyond 64 bits")
        elif isinstance(here, float):
            if not math.isfinite(here):
                raise ValueError("it holds a number that is not finite")
        elif here is not None:
            raise ValueError(f"it holds a {type(here).__name__}, which is no plain value")


def twice(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key that stands twice among the pairs of a JSON object, cut to 40 characters; None: each stands once."""
    if len(dict(pairs)) == len(pairs):
        return None
    return next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)[:40]


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs; ValueError where a key stands twice, for readers disagree about which one counts."""
    if (name := twice(pairs)) is not None:
        raise ValueError(f"the key {name!r} stands twice in one object")
    return dict(pairs)


def _not_finite(name: str) -> NoReturn:
    raise ValueError("it holds a number that is not finite")
