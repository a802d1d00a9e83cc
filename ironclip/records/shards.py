"""Shards of one evaluation, done anywhere and in any order, one folder each.

    <evaluation>/shards/3-of-8/    settings.json samples.jsonl record.json ... of the batches 3, 11, 19, ...

The settings of a shard are those of the evaluation and, under "shard", all that must agree among the shards of one record: size
of the batches, configuration, learned tensors, frozen weights, versions. Imports no torch.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ironclip.core.errors import RunBusy, RunError
from ironclip.core.signals import leave_if_asked
from ironclip.records.environment import code, packages
from ironclip.records.folder import EvaluationFolder
from ironclip.records.lock import locked
from ironclip.records.record import Setup
from ironclip.records.share import Shard, Share

SAME = (
    "method", "options", "backbone", "shots", "split_seed", "seed", "trained_on", "training_attack", "config_hash",
    "learned_sha256",
)  # fmt: skip
"""What of the set-up must agree among the shards of one record, besides its settings."""
RESULT = "record.json"


@dataclass(frozen=True)
class Part:
    """One evaluation that is done in shards: where it lies and what its shards must agree on."""

    place: EvaluationFolder
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, place: EvaluationFolder, setup: Setup, *, batch_size: int, keep_examples: int) -> "Part":
        """The evaluation in this folder under this setup; keep_examples: images that its record keeps."""
        same = setup.model_dump(mode="json", include=set(SAME))
        own = {"batch_size": batch_size, "keep_examples": keep_examples, "setup": same, "versions": versions()}
        return cls(place, {**(place.settings or {}), "shard": own})

    @property
    def begun(self) -> int | None:
        """Into how many shards the evaluation was divided; None: into none yet."""
        return next((of for _, of in _numbers(self.place)), None)

    def folder(self, shard: Shard) -> EvaluationFolder:
        """Where the outcomes of a shard lie, made if it is not there.

        Raises:
            RunError: a shard of this evaluation is there that cannot be merged with it.
        """
        agree(self.settings, shards(self.place))
        found = EvaluationFolder(self.place.path / "shards" / shard.name)
        if found.settings is None:
            found.begin(self.settings)
        return found


def versions() -> dict[str, str]:
    """What computes here, and must be the same for all shards; device, system and Python may differ."""
    return {**packages(), "code": code()}


def take(
    hold: Callable[[], AbstractContextManager[None]],
    parts: Sequence[Part],
    share: Share,
    batches: int,
    score: Callable[[Shard, Sequence[EvaluationFolder]], object],
    *,
    result: str = RESULT,
    pause: float = 1.0,
) -> None:
    """Do the shards of a share that are not finished; "any" waits for those that others hold, and takes what is left by the dead.

    Args:
        hold: holds the folder of the whole alone, and waits for whoever has it.
        parts: the evaluations whose shards are done together.
        batches: in each of them.
        score: gets the shard and its folder in each evaluation, and writes the result of each.
        result: name of the file that a finished shard has, and a finished evaluation.

    Raises:
        Leaving: the process was asked to leave, and the shard that it did is finished.
        RunBusy: the one shard asked for is being done by another process.
    """
    with hold():  # who comes first says into how many shards
        todo = share.shards(batches, parts[0].begun)
        for part in parts:
            part.folder(todo[0])
    while True:
        held = False
        for shard in todo:
            if all((part.place.path / result).exists() for part in parts):
                return
            folders = [part.folder(shard) for part in parts]
            if all((folder.path / result).exists() for folder in folders):
                continue
            try:
                with locked(folders[0].path):
                    score(shard, folders)
                leave_if_asked()
            except RunBusy:
                if share.number is not None:
                    raise
                held = True
        if not held:
            return
        time.sleep(pause)


def missing(place: EvaluationFolder, result: str = RESULT) -> tuple[Shard, ...]:
    """The shards of an evaluation that are not finished; none where it was divided into none."""
    found = shards(place)
    of = max((of for _, of in _numbers(place)), default=0)
    done = {int(folder.path.name.split("-")[0]) for folder in found if (folder.path / result).exists()}
    return tuple(Shard(number, of) for number in range(1, of + 1) if number not in done)


def shards(place: EvaluationFolder) -> list[EvaluationFolder]:
    """The shards of an evaluation that were begun."""
    return [EvaluationFolder(place.path / "shards" / Shard(*pair).name) for pair in _numbers(place)]


def _numbers(place: EvaluationFolder) -> list[tuple[int, int]]:
    """(number, of) of the shards begun, in order.

    Raises:
        RunError: folders of two divisions.
    """
    names = [path.parent.name for path in place.path.glob("shards/*/settings.json")]
    pairs = [(int(m[1]), int(m[2])) for name in names if (m := re.fullmatch("([1-9][0-9]{0,5})-of-([1-9][0-9]{0,5})", name))]
    found = sorted(pair for pair in pairs if pair[0] <= pair[1])
    if len(of := sorted({of for _, of in found})) > 1:
        raise RunError(f"{place.path / 'shards'} holds shards of {of[0]} and of {of[1]}; remove those that are not wanted")
    return found


def agree(settings: Mapping[str, Any], others: Sequence[EvaluationFolder]) -> None:
    """RunError where one of these shards was measured under other settings; it names the shard and the first that differs."""
    for other in others:
        for where, there, here in _differences(other.settings or {}, settings):
            what = where.removeprefix("shard.").removeprefix("versions.").removeprefix("setup.")
            kind = "by another version" if where.startswith("shard.versions") else "under other settings"
            if where.startswith(("shard.setup.config_hash", "shard.setup.learned_sha256", "shard.setup.backbone")):
                kind = "on another checkpoint"
            raise RunError(
                f"{other.path} was measured {kind}: its {what} is {_short(there)}, not {_short(here)}; use the same for all "
                "shards, or remove that folder to measure it again"
            )


def _differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value in a, value in b) of everything that differs."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(a.keys() | b.keys()):
            yield from _differences(a.get(key), b.get(key), f"{where}.{key}".lstrip("."))
    elif a != b:
        yield where, a, b


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
