"""Files damaged in every way that is cheap: bits, bytes, slices, and values of another type where the format has values."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ironclip.records.record import canonical_hash

ODD: tuple[Callable[[], str], ...] = tuple(
    lambda text=text: text
    for text in (
        "null", "true", "-1", "0", "1.5", str(2**63), str(10**400), "1e999", "-Infinity", "NaN", '""', '"\\ud800"', '"\\u0000"',
        '"\\u202e=1+1\\u2066"', "[]", "{}", "[null]", '{"a": 1}', '{"": []}', "[" * 200 + "]" * 200,
        '"' + "x" * 5000 + '"', '"../../x"',
    )
)  # fmt: skip


def damaged(content: bytes, name: str, draw: random.Random) -> bytes:
    """The content of a file after one to three changes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        content = (
            _value(content, name, draw)
            if name.endswith(("json", "jsonl", "yaml")) and draw.random() < 0.6
            else _bytes(content, draw)
        )
    return content


def _bytes(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    end = min(len(content), place + draw.choice((1, 1, 8, 100)))
    kind = draw.randrange(6)
    if kind == 0 and content:
        place = draw.randrange(len(content))
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + draw.randbytes(end - place) + content[end:]
    if kind == 2:
        return content[:place]
    if kind == 3:
        return content[:place] + content[end:]
    if kind == 4:
        return content[:place] + content[place:end] * 2 + content[end:]
    return (
        content[:place]
        + draw.choice((b"\x00", b"\xff\xfe", b"\n", b'"', b"{", b"]", b"&a *a", b"!!python/name:os.system "))
        + content[place:]
    )


def _value(content: bytes, name: str, draw: random.Random) -> bytes:
    """With one value, key or entry replaced by an odd one; bytes where the content is no text of its format any more."""
    try:
        if name.endswith("jsonl"):
            lines = content.decode().splitlines()
            number = draw.randrange(len(lines))
            lines[number] = _replaced(json.loads(lines[number]), draw)
            return ("\n".join(lines) + "\n").encode(errors="surrogatepass")
        value = json.loads(content) if name.endswith("json") else yaml.safe_load(content)
        text = _replaced(value, draw)
        if name == "record.json" and draw.random() < 0.7:  # as somebody would who knows of the checksum
            value = json.loads(text)
            value["sha256"] = canonical_hash({key: each for key, each in value.items() if key != "sha256"})
            text = json.dumps(value)
        return text.encode(errors="surrogatepass")
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return _bytes(content, draw)


def _replaced(value: Any, draw: random.Random) -> str:
    mark = "this-is-replaced"
    places = list(_places(value))
    if not places:
        return draw.choice(ODD)()
    holder, key = draw.choice(places)
    kind = draw.randrange(8)
    if kind == 0 and isinstance(holder, dict):
        holder[draw.choice(("colour", "", "sha256", "\u202e"))] = holder.pop(key)
    elif kind == 1:
        del holder[key]
    else:
        holder[key] = mark
    return json.dumps(value).replace(f'"{mark}"', draw.choice(ODD)())


def _places(value: Any) -> Any:
    """(holder, key) of every value inside."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)


def damage(folder: Path, draw: random.Random) -> Path:
    """Damage one file of a folder; its path."""
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"))
    path.write_bytes(damaged(path.read_bytes(), path.name, draw))
    return path
