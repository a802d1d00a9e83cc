"""Random command lines: verbs x options x odd values. Each must end, with exit status 0, 1, 2 or 130, and no traceback.

They run in this process, in a folder that holds a trained run, images and some files that are none. A line that works on is
interrupted as by Ctrl-C; who does not end then hangs.
"""

import contextlib
import io
import os
import random
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import constants
from PIL import Image
from typer.main import get_command

from ironclip.cli import app, main

STATUSES = {0, 1, 2, 130}
PATIENCE = 15.0  # seconds after Ctrl-C
ODD = (
    "", " ", "-1", "0", "1", "3", "-0", "1e309", "nan", "inf", "-inf", "1/0", "0/255", "1/255", "4/255,1/255", "4/255,",
    "300/255", "9" * 40, "1_0", "0x10", "１", "true", "null", "~", "a=b=c", "=", "steps=1", "steps=-1", "steps=nan",
    "steps=[1]", "length=9999", "epochs=0", "lr=nan", "lr=1e30", "batch_size=0", "eps=4", "a: b", "{", "[v2]", "[/x]",
    "[bold]", ":smile:", "a\nb", "\x1b[2J", "猫", "\u202e", "half \udcff", "x" * 300, "x" * 5000, "%s%n", "$(id)", "`id`", "*",
    "?", "--", "-", "--json", "-h", "@", "a,b", ",", "a,,a", "runs/last", "photos", "photos/dark", "photos/dark/0.png",
    "list.csv", "names.txt", "grid.yaml", "broken.yaml", "run", "run/config.yaml", "empty", "nowhere", "nowhere/file",
    "shapes", "mini", "mini-robust", "nap", "apt", "rtpt", "apt+rtpt", "rtpt+apt", "apt+apt", "pgd", "linf", "l2",
    "robust>=0.4@1/255", "robust>=2", "clean>=0", "test", "val", "train", "static", "transfer", "cpu", "cuda:99", "meta",
    "model.onnx", "module:function", "os:system", "theirs.py:model", "next", "all", "new", "coop", "auto", "classes",
    "x=train,y=test",
)  # fmt: skip
"""Values for any option; no path leads out of the folder, and none is a device."""
USUAL: dict[str, tuple[str, ...]] = {
    "method": ("apt", "zero_shot"), "data": ("shapes", "photos", "list.csv"), "backbone": ("mini",),
    "target": ("run", "runs/last", "mini"), "targets": ("run", "runs"), "run": ("run", "runs/last"),
    "images": ("photos", "photos/dark/0.png"), "model": ("run",), "names": ("dark,bright", "photos"),
    "name": ("photos", "pgd"), "file": ("grid.yaml", "model.pt2"), "save": ("adv",), "folder": ("saved",), "eps": ("1/255",),
    "attack": ("fgsm", "pgd", "fgsm,pgd"), "what": ("methods", "attacks", "presets"), "device": ("cpu",), "limit": ("2",),
    "classes": ("names.txt",), "classes_file": ("names.txt",), "split": ("test",), "changes": ("steps=1",), "shots": ("1",),
    "out_folder": ("out",), "html": ("page.html",), "report": ("page.html",), "root": ("demo",), "norm": ("linf", "l2"),
    "repository": ("you/run",),
}  # fmt: skip
BRIEF = {
    "train": "--shots 1 --set epochs=1 --set attack.steps=1 --device cpu", "evaluate": "--attack fgsm --limit 2 --device cpu",
    "audit": "--limit 2 --attack fgsm --eps 1/255 --diagnostics 0 --device cpu", "attack": "--limit 2 --set steps=1 --device cpu",
    "classify": "--limit 2 --device cpu", "pretrain": "--steps 1 --batch 2 --device cpu", "serve": "--port 0 --device cpu",
    "demo": "--quick --device cpu", "run": "--limit-cells 1 --miniature --device cpu",
}  # fmt: skip
"""Options that keep a line short; odd values come after them and win."""


@dataclass(frozen=True)
class Failure:
    """A line that did not end as it must, and how it ended."""

    line: str
    how: str


class Hang(BaseException):
    """A line that did not end after Ctrl-C."""


def furnish(folder: Path) -> None:
    """A folder as a user has it: images, a table, a list of classes, grids, a trained run."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = draw.integers(128 * label, 128 * label + 128, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    rows = [f"photos/{name}/{number}.png,{name}" for name in ("dark", "bright") for number in range(6)]
    texts = {
        "list.csv": "\n".join(["file,class", *rows]), "names.txt": "dark\nbright\n", "broken.yaml": "a: [",
        "readme.txt": "no image",
        "grid.yaml": "name: g\nruns: [{method: zero_shot, dataset: shapes}]\nevaluate: [{attacks: fgsm, limit: 2}]\n",
        "theirs.py": "def model(classes):\n    raise ValueError('mine')\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "empty").mkdir()
    with _inside(folder):
        train = ["train", "apt", "--data", "photos", "--set", "length=2", *BRIEF["train"].split()]
        for arguments in (train, [*train, "--out", "run"]):
            _, how = end_of(arguments, 600.0)
            assert not how, how


def lines(seed: int, count: int) -> Iterator[list[str]]:
    """Command lines, always the same for a seed."""
    draw, verbs = random.Random(seed), _verbs()
    for _ in range(count):
        yield _line(draw, *draw.choice(verbs))


def end_of(arguments: list[str], seconds: float) -> tuple[int, str]:
    """(exit status, what is wrong with how it ended) of a line that is interrupted after so many seconds."""
    said, before, argv = io.StringIO(), signal.getsignal(signal.SIGALRM), sys.argv
    interrupted = False

    def alarm(number: int, frame: Any) -> None:
        nonlocal interrupted
        if interrupted:
            raise Hang
        interrupted = True
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background may have been told to ignore it
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.argv = ["ironclip", *arguments]
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    except Hang:
        return -1, "hangs\n" + traceback.format_exc()
    except BaseException:
        return -1, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.argv = argv
    text = said.getvalue()
    if status not in STATUSES:
        return status, f"exit status {status}: {text[-300:]}"
    if "Traceback" in text:
        return status, text
    wrong = [line for line in text.splitlines() if line.startswith("error: ")]
    return status, f"{len(wrong)} lines of error: {text[-300:]}" if status == 2 and len(wrong) > 1 else ""


def failures(folder: Path, seed: int, count: int, *, seconds: float = 10.0, tell: Any = None) -> list[Failure]:
    """The lines that did not end as they must."""
    found = []
    with _inside(folder):
        for number, arguments in enumerate(lines(seed, count), 1):
            status, how = end_of(arguments, seconds)
            if how:
                found.append(Failure(shlex.join(["ironclip", *arguments]), how))
            if tell is not None:
                tell(number, arguments, status, how)
    return found


def _verbs() -> list[tuple[list[str], Any]]:
    """(words, command) of every verb."""
    found, waiting = [], [([], get_command(app))]
    while waiting:
        words, command = waiting.pop()
        if hasattr(command, "commands"):
            waiting += [([*words, name], each) for name, each in command.commands.items()]
        else:
            found.append((words, command))
    return sorted(found, key=lambda pair: pair[0])


def _line(draw: random.Random, words: list[str], command: Any) -> list[str]:
    if draw.random() < 0.03:
        words = [*words[:-1], draw.choice(ODD)]
    said = [*words, *shlex.split(BRIEF.get(words[-1], ""))]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and "--help" not in each.opts]
    for each in arguments:
        if draw.random() < 0.96:
            said.append(_value(draw, each.name, 0.25))
    chosen = [each for each in options if each.required and draw.random() < 0.95]
    chosen += draw.sample(options, min(len(options), draw.choice((0, 1, 1, 2, 3))))
    for each in chosen:
        said.append(draw.choice(each.opts))
        if not getattr(each, "is_flag", False):
            said.append(_value(draw, each.name, 0.2 if each.required else 0.7))
    return said


def _value(draw: random.Random, name: str, odd: float) -> str:
    return draw.choice(ODD if draw.random() < odd or name not in USUAL else USUAL[name])


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In this folder, with a cache in it, and nothing fetched from anywhere."""
    here, before, online = Path.cwd(), dict(os.environ), constants.HF_HUB_OFFLINE
    os.environ["IRONCLIP_CACHE"] = str(folder / "cache")
    constants.HF_HUB_OFFLINE = True
    os.environ.pop("IRONCLIP_DATA", None)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        constants.HF_HUB_OFFLINE = online
        os.environ.clear()
        os.environ |= before
