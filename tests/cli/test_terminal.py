"""Names are text: brackets, emoji codes, line ends and control characters reach the terminal as text, through every verb."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ironclip.cli.terminal import forgiving

NAMES = ("[v2] a", "[/x]", "[bold]b[/bold]", ":smile:", "line\nend", "\x1b[31mred", "ünï 猫")
HERE = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONUNBUFFERED": ""}
QUICK = ("--set", "epochs=1", "--set", "attack.steps=1", "--set", "length=2", "--shots", "1", "--device", "cpu")


def folder(root: Path, names: tuple[str, ...]) -> Path:
    draw = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(root / name / f"{name}{number}.png")
    return root


@pytest.fixture
def typed(ironclip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    names = tuple(name.replace("/", "|") for name in NAMES)  # no file's name holds a slash
    places = [tmp_path / name for name in (".".join(("photos", *names[:3])), ".".join(("run", *names[:3])))]
    folder(places[0], names)
    return ironclip, *places


def good(result: tuple[int, str, str]) -> str:
    code, said, complaint = result
    assert code == 0, complaint
    assert "Traceback" not in complaint
    assert "\x1b" not in said + complaint
    return said + complaint


def test_every_verb_takes_names_as_text(typed, tmp_path: Path) -> None:
    ironclip, photos, run = typed
    assert "photos.[v2] a.[|x].[bold]b[|bold]: good; 7 classes" in good(ironclip("data", "check", str(photos)))
    said = good(ironclip("train", "apt", "--data", str(photos), *QUICK, "--out", str(run)))
    assert f"run: {run}" in said
    again = shlex.split(next(line for line in said.splitlines() if line.startswith("next: ")).removeprefix("next: "))
    said = good(ironclip(*again[1:], "--attack", "fgsm", "--limit", "4"))
    repeat = shlex.split(next(line for line in said.splitlines() if line.startswith("again: ")).removeprefix("again: "))
    assert repeat[:3] == ["ironclip", "evaluate", str(run)]
    said = good(ironclip("classify", str(photos), "--model", str(run), "--limit", "7", "--report", str(tmp_path / "[r].html")))
    for shown in (r"line\nend", r"\x1b[31mred", "[bold]b", ":smile:", "[v2] a", "猫"):
        assert shown in said
    good(ironclip("attack", str(run), "--save", str(tmp_path / "adv [v2]"), "--set", "steps=1", "--limit", "2"))
    for verb in ("show", "report", "verify"):
        assert "[v2] a.[|x]" in good(ironclip(verb, str(run)))
    good(ironclip("report", str(run), "--matrix", "--html", str(tmp_path / "[m].html")))
    good(ironclip("show", str(tmp_path)))
    assert "none of 1 record" in good(ironclip("compare", str(run), "--published"))
    said = good(ironclip("audit", str(run), "--eps", "1/255", "--attack", "pgd", "--set", "steps=1", "--limit", "2",
                         "--diagnostics", "2", "--steps", "1", "--html", str(tmp_path / "[a].html")))  # fmt: skip
    assert f"audit of {run} on " in said


@pytest.mark.parametrize("name", NAMES)
def test_a_refusal_is_one_line_that_holds_the_name(ironclip, name: str) -> None:
    for arguments in (("train", "apt", "--data", name), ("evaluate", name, "--data", "shapes"), ("show", name), ("serve", name),
                      ("grid", "plan", name), ("classify", name, "--names", "a,b"), ("train", name, "--data", "shapes"),
                      ("export", name, "m.onnx"), ("list", name), (name,), ("train", "apt", "--shots", name)):  # fmt: skip
        code, _, complaint = ironclip(*arguments)
        assert code == 2, arguments
        assert len(complaint.splitlines()) == 1, complaint
        assert "\x1b" not in complaint


COMMANDS = (["list", "methods"], ["list", "methods", "--json"], ["merge", "--help"])


@pytest.mark.parametrize("words", COMMANDS)
def test_a_reader_that_goes_away_is_no_fault(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "ironclip", *words], stdout=writing, stderr=subprocess.PIPE, env=HERE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_standard_streams_are_no_fault() -> None:
    line = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "ironclip", "list", "methods"]
    assert subprocess.run(line, env=HERE, check=False).returncode == 0


def test_a_console_without_a_sign_shows_its_escape() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    forgiving(stream, sys.__stdin__ and object())
    stream.write("≤ 猫 ü")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u2264 \\u732b \xfc"
