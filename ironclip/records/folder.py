"""The folder of one run. Every file is either absent, the old version or the new one.

    config.yaml          resolved configuration; its hash is the run's identity
    env.json             versions, device, commit
    places.json          where data lay that config.yaml names by path
    log.jsonl            what training reported, one line per entry
    state.safetensors    an interrupted training, where it stands
    learned.safetensors  what was learned, and on which frozen weights
    settings.json        \\
    samples.jsonl         > the first evaluation; further ones in evaluations/<name>/
    record.json          /

Reading a folder imports no torch, except for tensors.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import ValidationError

from ironclip.core.errors import CheckpointError, RunError, UsageError
from ironclip.core.files import append_lines, disk_errors, read_lines, write_json, write_text
from ironclip.core.texts import json_value, plain_bytes, yaml_value
from ironclip.records.environment import environment
from ironclip.records.last import LAST, named
from ironclip.records.lock import locked
from ironclip.records.plain import check_plain
from ironclip.records.record import Record, Sample, canonical_hash
from ironclip.records.verified import UNSEALED, counted, opened, sealed

if TYPE_CHECKING:
    from ironclip.records.learned import Learned

Status = Literal["new", "training", "trained", "evaluated"]
NAMED = ("method", "dataset", "backbone", "shots", "seed")
WAIT = 60.0
"""Seconds to wait for another process that begins the same run, or merges its shards; on a busy machine that takes long."""
AGAIN = "Copy the folder again, or remove its record.json and samples.jsonl and measure again"


class EvaluationFolder:
    """Settings, samples and record of one evaluation.

    `samples.jsonl` grows as images are scored; an interrupted evaluation continues after its last whole line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def settings(self) -> dict[str, Any] | None:
        return _read_json(self.path / "settings.json")

    def begin(self, settings: Mapping[str, Any]) -> None:
        with disk_errors(self.path):
            write_json(self.path / "settings.json", settings)

    def samples(self) -> list[Sample]:
        """Outcomes so far, in the order in which they were written.

        Raises:
            RunError: a whole line that is no sample.
        """
        path = self.path / "samples.jsonl"
        with disk_errors(path):
            lines = _lines(path, "remove the file to score the images again")
        found = []
        for number, line in enumerate(lines, 1):
            try:
                found.append(Sample.model_validate_json(line))
            except ValidationError:
                raise RunError(f"{path}, line {number} is no sample; remove the file to score the images again") from None
        return found

    def append(self, samples: Iterable[Sample]) -> None:
        with disk_errors(self.path):
            append_lines(self.path / "samples.jsonl", (sample.model_dump_json() for sample in samples))

    def save_samples(self, samples: Iterable[Sample]) -> None:
        """These outcomes in place of those that are there."""
        with disk_errors(self.path):
            write_text(self.path / "samples.jsonl", "".join(f"{sample.model_dump_json()}\n" for sample in samples))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add one entry of JSON values to the log."""
        with disk_errors(self.path):
            append_lines(self.path / "log.jsonl", [json.dumps(dict(entry), sort_keys=True, allow_nan=False)])

    def entries(self) -> list[dict[str, Any]]:
        """What training reported.

        Raises:
            RunError: a whole line that is no entry.
        """
        path, remedy = self.path / "log.jsonl", "remove the file, it only tells how training went"
        with disk_errors(path):
            lines = _lines(path, remedy)
        return [_read_value(line, f"{path}, line {number}", remedy) for number, line in enumerate(lines, 1)]

    def record(self) -> Record | None:
        """The finished record, checked against its samples (see `verified`), or None.

        Raises:
            RunError: a file that is no record of this version, or one that its own checksum or its samples contradict.
        """
        found = self.measured()
        return None if found is None else found[0]

    def measured(self, *, unsealed: bool = False) -> tuple[Record, list[Sample]] | None:
        """The finished record and the samples against which it was checked, or None; errors as in `record`.

        Args:
            unsealed: take a record without a checksum, which the caller vouches for.
        """
        path = self.path / "record.json"
        value = _read_json(path)
        if value is None:
            return None
        value, reason = opened(value)
        reason = None if unsealed and reason == UNSEALED else reason
        try:
            record = Record.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RunError(f"{path} is no record: {where}: {first['msg']}") from None
        if not (self.path / "samples.jsonl").is_file():
            raise RunError(
                f"{path} stands without its samples.jsonl; copy the whole folder, or remove record.json and measure again"
            )
        samples = self.samples()
        if reason is None and not _ends_whole(self.path / "samples.jsonl"):
            reason = "the last line of samples.jsonl is cut"
        if reason is None:
            record, reason = counted(record, samples, self.settings)
        if reason is not None:
            raise RunError(f"{path} is not to be believed: {reason}. {AGAIN}")
        return record, samples

    def save_record(self, record: Record) -> None:
        with disk_errors(self.path):
            write_json(self.path / "record.json", sealed(record))


class RunFolder(EvaluationFolder):
    """One run: configuration, training, what was learned, evaluations."""

    @classmethod
    def create(cls, config: Mapping[str, Any], *, out: Path | None = None, root: Path = Path("runs")) -> "RunFolder":
        """The folder of this configuration, made if it is not there.

        Args:
            config: resolved, JSON values only. Whatever can change a result belongs in it; device, workers and paths of
                output do not. Needs "method", "dataset", "backbone", "shots" and "seed".
            out: the folder itself; default: a name in `root` made of these five and the hash.

        Raises:
            UsageError: a key is missing or a value is not JSON.
            RunError: `out` holds another run or other files, or the folder cannot be written.
        """
        config = _canonical(config)
        path = out or root / run_name(config)
        check_plain(path)
        run = cls(path)
        with disk_errors(path):
            file = path / "config.yaml"
            others = path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir())
            if others and not file.exists():
                raise RunError(f"{path} holds other files; choose another --out or empty it")
            if not file.exists():
                with run.lock(wait=WAIT):
                    if not file.exists():  # else another process has begun the run meanwhile
                        write_text(file, yaml.safe_dump(config, sort_keys=True, allow_unicode=True))
            if run.config_hash != canonical_hash(config):
                raise RunError(f"{path} holds another run ({run_name(run.config)}); choose another --out or remove it")
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run; `runs/last` is the one trained last.

        Raises:
            RunError: there is no run, or its configuration cannot be read.
        """
        path = named(path)
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is no run: it has no config.yaml. `ironclip train` makes runs; they lie in runs/")
        run = cls(path.resolve() if path.is_symlink() else path)
        check_plain(run.path)
        run.config  # noqa: B018 - reads and checks it
        return run

    @property
    def config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        with disk_errors(path):
            content = plain_bytes(path)
        try:
            value = yaml_value(content.decode())
        except ValueError as error:
            raise RunError(f"{path} is no configuration: {error}") from None
        if not isinstance(value, dict):
            raise RunError(f"{path} is no configuration: it must hold keys and values")
        return value

    @property
    def config_hash(self) -> str:
        return canonical_hash(self.config)

    @property
    def status(self) -> Status:
        """new, training (interrupted), trained, or evaluated: the first evaluation is finished."""
        if (self.path / "record.json").exists():
            return "evaluated"
        if (self.path / "learned.safetensors").exists():
            return "trained"
        return "training" if (self.path / "state.safetensors").exists() else "new"

    @contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the folder alone while writing; RunBusy if another process does for longer than `wait` seconds. Removes what a
        killed writer left: temporary files, except in shards, which have their own locks, the state of a finished training."""
        with locked(self.path, wait):
            for left in self.path.rglob(".*.tmp"):
                if "shards" not in left.relative_to(self.path).parts:
                    left.unlink(missing_ok=True)
            if self.status in ("trained", "evaluated"):
                (self.path / "state.safetensors").unlink(missing_ok=True)
            yield

    def save_environment(self, device: str) -> dict[str, str]:
        facts = environment(device)
        with disk_errors(self.path):
            write_json(self.path / "env.json", facts)
        return facts

    @property
    def environment(self) -> dict[str, str]:
        return _read_json(self.path / "env.json") or {}

    def save_places(self, places: Mapping[str, str]) -> None:
        """Note where the data lie that the configuration names by path."""
        if places:
            with disk_errors(self.path):
                write_json(self.path / "places.json", dict(places))

    @property
    def places(self) -> dict[str, str]:
        """What `save_places` noted; {} for a run whose data have names, or one of an older version.

        Raises:
            RunError: the file holds something else.
        """
        found = _read_json(self.path / "places.json") or {}
        if not all(isinstance(value, str) for value in found.values()):
            raise RunError(f"{self.path / 'places.json'} holds no paths; remove it, and the paths of config.yaml count")
        return found

    def save_state(self, state: Any) -> None:
        """Save the state of training (a tree for `learned.save_state`) and the length of the log at that point."""
        from ironclip.records.learned import save_state

        save_state(self.path / "state.safetensors", {"state": state, "entries": len(self.entries())})

    def load_state(self) -> Any | None:
        """The last saved state, or None. Log entries after it are removed, because they will be written again."""
        from ironclip.records.learned import load_state

        path, log = self.path / "state.safetensors", self.path / "log.jsonl"
        if self.status not in ("new", "training"):
            return None
        saved = load_state(path) if path.exists() else {"state": None, "entries": 0}
        if not isinstance(saved, dict) or not isinstance(saved.get("entries"), int) or "state" not in saved:
            raise CheckpointError(f"{path} is no training state; remove it to train from the start")
        with disk_errors(log):
            lines = _lines(log, "remove it and state.safetensors to train from the start")
            if len(lines) != saved["entries"]:
                write_text(log, "".join(f"{line}\n" for line in lines[: saved["entries"]]))
        return saved["state"]

    def save_learned(self, learned: "Learned") -> None:
        """What was learned; ends the training and removes its state."""
        from ironclip.records.learned import save_learned

        save_learned(self.path / "learned.safetensors", learned)
        with disk_errors(self.path):
            (self.path / "state.safetensors").unlink(missing_ok=True)

    def load_learned(self, base_sha256: str | None = None) -> "Learned":
        from ironclip.records.learned import load_learned

        return load_learned(self.path / "learned.safetensors", base_sha256)

    def evaluation(self, settings: Mapping[str, Any], name: str = "", *, apart: bool = False) -> EvaluationFolder:
        """Where the evaluation with these settings lies: in the run itself if it is the first, else in evaluations/.

        Args:
            settings: JSON values: threat, attacks with constants, data.
            name: readable beginning of the folder's name.
            apart: in evaluations/ even if it is the first, as for data on which the run was not trained.
        """
        settings = _canonical(settings)
        own = self.settings
        if not apart and (own is None or own == settings):
            place = EvaluationFolder(self.path)
        else:
            place = EvaluationFolder(self.path / "evaluations" / slug(f"{name}-{canonical_hash(settings)[:8]}"))
        if place.settings is None:
            place.begin(settings)
        return place

    def evaluations(self) -> list[EvaluationFolder]:
        """All evaluations begun, the run's own first."""
        places = [self.path, *sorted(self.path.glob("evaluations/*/"))]
        return [EvaluationFolder(place) for place in places if (place / "settings.json").exists()]

    def begun(self, settings: Mapping[str, Any]) -> EvaluationFolder | None:
        """The evaluation with these settings, or None where it was not begun."""
        settings = _canonical(settings)
        return next((place for place in self.evaluations() if place.settings == settings), None)


def is_run(path: Path) -> bool:
    """Whether the path is meant as a run: a run's folder, or the pointer "last", be it there or not."""
    return path.name == LAST or (path / "config.yaml").exists()


def run_name(config: Mapping[str, Any]) -> str:
    """<method>-<dataset>-<backbone>-<shots>shot-seed<k>-<hash8>; without the shots where they are None: nothing or all."""
    missing = [key for key in NAMED if key not in config]
    if missing:
        raise UsageError(f"the configuration of a run needs {', '.join(NAMED)}; {', '.join(missing)} is missing")
    method, dataset, backbone, seed = (slug(str(config[key]))[-40:] for key in NAMED if key != "shots")
    shots = "" if config["shots"] is None else f"-{config['shots']}shot"
    return slug(f"{method}-{dataset}-{backbone}{shots}-seed{seed}-{canonical_hash(config)[:8]}")


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", name).strip("-.")


def _canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"a configuration holds numbers, strings, lists and keys only: {error}") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    """The value, or None where there is no file."""
    with disk_errors(path):
        if not path.exists():
            return None
        content = plain_bytes(path)
    return _read_value(content, str(path), "remove it to make it again")


def _read_value(content: bytes | str, where: str, remedy: str) -> dict[str, Any]:
    """Keys and values of a JSON text, or RunError."""
    try:
        value = json_value(content)
    except ValueError as error:
        raise RunError(f"{where} is no JSON: {error}; {remedy}") from None
    if not isinstance(value, dict):
        raise RunError(f"{where} holds no keys and values; {remedy}")
    return value


def _lines(path: Path, remedy: str) -> list[str]:
    try:
        return read_lines(path)
    except UnicodeDecodeError:
        raise RunError(f"{path} is no text; {remedy}") from None


def _ends_whole(path: Path) -> bool:
    """Whether a file is empty or ends with a whole line."""
    with disk_errors(path), path.open("rb") as file:
        if (length := file.seek(0, os.SEEK_END)) == 0:
            return True
        file.seek(length - 1)
        return file.read(1) == b"\n"
