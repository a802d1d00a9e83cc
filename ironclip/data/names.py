"""Class names a text tower can read: from folder names, and from the lists shipped with the library."""

import html
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from typing import Any

from ironclip.core.shown import number_of

_ID = re.compile(r"(n\d{8}|(class|label|category|cat|cls|id|c|y)?[ _-]?\d+|[0-9a-f]{8,}|[^a-zA-Z]*)", re.IGNORECASE)
_SURE_ID = re.compile(r"n\d{8}|(class|label|category|cls|id)[ _-]?\d+", re.IGNORECASE)


def prompt_name(name: str) -> str:
    """The name as it stands in a prompt: underscores become spaces."""
    return " ".join(name.replace("_", " ").split())


def looks_like_id(name: str) -> bool:
    """Whether a name means nothing to a text tower: `n01855672`, `class_3`, `0`."""
    return _ID.fullmatch(name.strip()) is not None and not re.search(r"[^\W\d_a-zA-Z]", name)


def as_read(name: str) -> str:
    """The name as CLIP's tokenizer reads it; two names with the same form are the same class for the model."""
    if name.isascii() and name.isprintable() and "&" not in name:
        return prompt_name(name).lower()  # the same, a hundred times faster
    import ftfy  # what the tokenizer does first: widths, ligatures, quotes, letters of two signs, text read in a wrong encoding

    return prompt_name(unicodedata.normalize("NFC", html.unescape(ftfy.fix_text(name)))).lower()


def doubts(classes: Sequence[str]) -> tuple[str, ...]:
    """What a user should know about class names: ids instead of words, names that mean the same to a text tower."""
    notes = []
    ids = [name for name in classes if looks_like_id(name)]
    ids = ids if 2 * len(ids) >= len(classes) else [name for name in classes if _SURE_ID.fullmatch(name.strip())]
    if ids:
        wordnet = any(re.fullmatch(r"n\d{8}", name) for name in ids)
        known = " (folders are WordNet ids: classes='imagenet' names them)" if wordnet else ""
        notes.append(
            f"{len(ids)} of {number_of(len(classes), 'class name', 'looks', 'look')} like ids ({', '.join(ids[:3])}), "
            "which a text tower cannot read; "
            f"give a file with lines 'folder<TAB>name' as classes file{known}"
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        groups[as_read(name)].append(name)
    twice = [group for group in groups.values() if len(group) > 1]
    if twice:
        which = " and ".join(repr(name) for name in dict.fromkeys(twice[0]))
        notes.append(
            f"{number_of(len(twice), 'class name', 'stands', 'stand')} for more than one class, e.g. {which}: "
            "a text tower cannot tell them apart "
            "and one of them is never predicted; give each its own name in a classes file"
        )
    return tuple(notes)


def imagenet_names() -> dict[str, str]:
    """{WordNet id: name} of the 1000 ImageNet classes in label order: the names published with CLIP."""
    return _shipped("imagenet")


def shipped_classes(dataset: str) -> tuple[str, ...] | None:
    """The class names of a known set in label order, as they stand in its split file; None where they come with the set."""
    if not resources.files("ironclip.data").joinpath("classes", f"{dataset}.json").is_file():
        return None
    found = _shipped(dataset)
    return tuple(found.values() if isinstance(found, dict) else found)


def _shipped(name: str) -> Any:
    return json.loads(resources.files("ironclip.data").joinpath("classes", f"{name}.json").read_text(encoding="utf-8"))
