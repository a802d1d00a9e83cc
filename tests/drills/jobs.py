"""What the drills interrupt: command lines in an empty folder, each with what it needs beforehand, and what must come out."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ironclip.core.files import read_lines

GRID = """
name: drill
defaults: {backbone: mini, dataset: shapes, eps: 4/255, augment: none, set: {epochs: 1, attack.steps: 1}}
runs:
  - {method: zero_shot}
  - {method: apt, shots: 1, seed: [1, 2]}
evaluate:
  - {attacks: [fgsm], eps: 4/255, limit: 4, batch_size: 2}
"""
TRAIN = ["train", "apt", "--data", "shapes", "--shots", "1", "--device", "cpu", "--out", "run", "--set", "epochs=3"]
TRAIN += ["--set", "attack.steps=1", "--set", "batch_size=16"]
EVALUATE = ["evaluate", "run", "--batch-size", "2", "--limit", "6", "--device", "cpu"]
PRETRAIN = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    "quick_gelu": False,
}
TIMES = {
    "seconds", "images_per_second", "timing", "sha256", "environment", "train_seconds", "evaluate_seconds", "peak_memory_bytes",
    "answer_seconds", "created", "commit",
}  # fmt: skip


def command(*lines: list[str]) -> None:
    """The command lines one after the other; SystemExit with the first status other than 0."""
    from ironclip.cli import main

    for line in lines:
        sys.argv[1:] = line
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise


def write_grid() -> None:
    Path("drill.yaml").write_text(GRID, encoding="utf-8")


def grid(workers: int) -> None:
    line = ["grid", "run", "drill.yaml", "--out", "out", "--workers", str(workers), "--device", "cpu"]
    try:
        command(line)
    except SystemExit as end:
        if end.code != 1:
            raise
        command(
            line
        )  # a cell whose processes died five times before its first step is given up once; the same command reopens it


def pretrain() -> None:
    """The loop of `ironclip pretrain` on made-up images, its lock and its errors included."""
    import torch

    from ironclip.core.errors import IronclipError
    from ironclip.core.signals import leaving_in_order
    from ironclip.pretraining import sets
    from ironclip.pretraining import train as recipe
    from ironclip.pretraining.data import Source

    draw = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 250, (20, 3, 16, 16), generator=draw, dtype=torch.uint8)
    sources = [Source("dark or bright", noise, torch.arange(20) % 2, (("night", "day"),))]
    sets.load_sources, sets.load_checks = (lambda *_: sources), (lambda *_: [])  # type: ignore[assignment]
    config = recipe.PretrainConfig(
        data=Path("none"), architecture=PRETRAIN, steps=3, batch=12, precision="float32", report_every=1
    )
    try:
        with leaving_in_order():
            recipe.pretrain(config, Path("mini"))
    except IronclipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class Job:
    """Work, and what must be done before it in the same folder."""

    work: Callable[[], None]
    before: Callable[[], None] | None = None


_trained = partial(command, TRAIN)
JOBS = {
    "train": Job(_trained),
    "evaluate, PGD": Job(partial(command, [*EVALUATE, "--attack", "pgd", "--set", "steps=3"]), _trained),
    "evaluate, AutoAttack": Job(
        partial(command, [*EVALUATE, "--attack", "autoattack", "--set", "steps=4", "--set", "queries=20"]), _trained
    ),
    "grid": Job(partial(grid, 1), write_grid),
    "grid, two processes": Job(partial(grid, 2), write_grid),
    "audit": Job(
        partial(command, ["audit", "mini", "--data", "shapes", "--eps", "1/255,4/255", "--limit", "4", "--attack", "fgsm,pgd",
                          "--diagnostics", "4", "--steps", "3", "--batch-size", "2", "--out", "audit", "--device", "cpu"])
    ),
    "merge": Job(
        partial(command, *([*EVALUATE, "--attack", "fgsm", "--shard", f"{k}/2"] for k in (1, 2)), ["merge", "run"]), _trained
    ),
    "export": Job(partial(command, ["export", "run", "model.onnx"], ["save", "run", "saved"]), _trained),
    "pretrain": Job(pretrain),
}  # fmt: skip


def prepare(job: Job, folder: Path, model: Path) -> None:
    """The folder as it is before the job, copied from one in which that was done once."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder) if job.before else folder.mkdir(parents=True)


def outcome(folder: Path) -> dict[str, Any]:
    """Every file of a folder by its content, without times; what must be equal however often it was interrupted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): _content(path) for path in files}


def _content(path: Path) -> Any:
    if path.name in ("env.json", "state.json", "traceback.txt", "index.sqlite", "drill.yaml", "last") or path.suffix == ".onnx":
        return "there"
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_bytes()))
    if path.suffix == ".jsonl":
        entries = [json.loads(line) for line in read_lines(path)]  # whole lines, as every reader takes them
        return [_timeless(entry) for entry in entries if entry.get("event") != "evaluated"]  # one for each time it went on
    if path.name == "checkpoint.safetensors":
        from ironclip.records.learned import load_state

        return _timeless(load_state(path))
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value.numpy().tobytes() if hasattr(value, "numpy") else value
