"""What a configuration refers to: code, files, repositories. Imports no torch.

A configuration may be a stranger's text. So no configuration names code, and a shared configuration names neither a file nor a
repository; the caller gives these.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ironclip.core.errors import CheckpointError, UsageError

CODE = ("generator",)
"""Options whose text would be imported and called."""
BACKBONES = ("teacher", "guide", "source", "descriptions", "proxy")
"""Options that name a second model or a file, and are one of `WORDS` where they name neither."""
WORDS = ("same_backbone", "train", "none")


def refuse_code(options: Mapping[str, Any]) -> None:
    """UsageError where an option of a configuration names code."""
    for key, value in options.items():
        if _last(key) in CODE and value is not None:
            raise UsageError(
                f"{key} names code ({value!r}), which no configuration may: train without it, then give it by hand: "
                "ironclip evaluate RUN --test-time difftpt --set difftpt.generator=module:function"
            )


def shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration without what training alone read from this machine: files, second models, their sources."""
    options = {key: value for key, value in config.get("options", {}).items() if not _opens(key, value)}
    attack = {key: value for key, value in config.get("attack", {}).items() if not _opens(key, value)}
    base = config.get("base") if registered(config.get("base") or "") else None
    named = {**config, "weights": None, "classes": None, "options": options, "attack": attack}
    for path in named.pop("files", {}):
        named["backbone"] = named["backbone"].replace(path, Path(path).name)
    return {**named, **({"base": base} if "base" in named else {})}


def refuse_outside(config: Mapping[str, Any], where: object) -> None:
    """CheckpointError where a shared configuration names a file or a repository (its backbone is checked by whoever loads it)."""
    for key, value in _outside(config):
        raise CheckpointError(
            f"{where} is not opened: its {key} names {value!r}, and a shared configuration may not choose what is read here"
        )


def registered(name: str) -> bool:
    """Whether a backbone's name is one of the package's or of open_clip's, and so no file and no repository of somebody's."""
    from ironclip.backbones.registry import EMBEDDED, ROBUST

    if name in (*EMBEDDED, *ROBUST):
        return True
    import open_clip

    architecture, _, tag = name.partition("/")
    return architecture in open_clip.list_models() and (not tag or tag in open_clip.list_pretrained_tags_by_model(architecture))


def _outside(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in ("weights", "classes", "files"):
        if config.get(key) is not None:
            yield key, config[key]
    if config.get("base") is not None and not registered(config["base"]):
        yield "base", config["base"]
    for part in ("options", "attack"):
        for key, value in config.get(part, {}).items():
            if _opens(key, value):
                yield f"{part}.{key}", value


def _opens(key: str, value: Any) -> bool:
    return _last(key) in BACKBONES and isinstance(value, str) and value not in WORDS and not registered(value)


def _last(key: str) -> str:
    return key.rpartition(".")[2]
