"""Run folders with links, pipes and text bombs: refused in one line, no reader waits, and no file outside is touched."""

import os
from itertools import pairwise
from pathlib import Path

import pytest
from measured import CONFIG, SAMPLES

from ironclip.core.errors import RunError
from ironclip.core.files import append_lines
from ironclip.core.texts import json_value, plain_bytes, yaml_value
from ironclip.records.folder import RunFolder
from ironclip.records.lock import locked

NAMES = (
    ".lock", "config.yaml", "env.json", "log.jsonl", "state.safetensors", "learned.safetensors", "settings.json", "samples.jsonl",
    "record.json", "audit.json", "evaluations", "evaluations/one", "evaluations/one/samples.jsonl", "anything",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(CONFIG, out=tmp_path / "run")
    run.begin({"limit": 3})
    run.append(SAMPLES[:1])
    return run


def put(run: RunFolder, name: str) -> Path:
    path = run.path / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def refused(run: RunFolder, words: str) -> None:
    for call in (lambda: RunFolder.open(run.path), lambda: RunFolder.create(CONFIG, out=run.path)):
        with pytest.raises(RunError, match=words) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_link_is_refused_and_what_it_points_to_stays(run: RunFolder, name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine\n")
    folder = name.endswith(("evaluations", "one"))
    put(run, name).symlink_to(mine if folder else mine / "thesis.txt")
    if name != "config.yaml":
        refused(run, "is a symbolic link")
    else:
        with pytest.raises(RunError):
            RunFolder.open(run.path)
    assert (mine / "thesis.txt").read_text() == "mine\n"
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(("evaluations", "one"))])
def test_a_pipe_is_refused_and_nobody_waits_for_it(run: RunFolder, name: str) -> None:
    os.mkfifo(put(run, name))
    if name == "config.yaml":  # no plain file, so no run
        with pytest.raises(RunError, match="is no run"):
            RunFolder.open(run.path)
    else:
        refused(run, "is no plain file")


def test_writers_follow_no_link_that_came_after_the_folder_was_opened(run: RunFolder, tmp_path: Path) -> None:
    victim = tmp_path / "thesis.txt"
    victim.write_text("mine\n")
    for name, write in (
        (".lock", lambda: locked(run.path).__enter__()),
        ("samples.jsonl", lambda: run.append(SAMPLES)),
        ("log.jsonl", lambda: run.log({"event": "epoch"})),
    ):
        put(run, name).symlink_to(victim)
        with pytest.raises(RunError):
            write()
    run.begin({"limit": 4})
    put(run, "settings.json").symlink_to(victim)
    run.begin({"limit": 5})  # a file that is written whole takes the link's place
    assert victim.read_text() == "mine\n"
    assert run.settings == {"limit": 5}


def test_readers_and_appenders_of_pipes_and_devices_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(RunError, match="is no plain file"):
            plain_bytes(path)
    with pytest.raises(OSError, match=r"pipe|seek"):
        append_lines(tmp_path / "pipe", ["line"])
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(RunError, match="11 bytes; at most 10"):
        plain_bytes(tmp_path / "large", 10)


@pytest.mark.parametrize("text", ["../elsewhere", "/etc", "..", "", "a\nb", "\x1b[2J"])
def test_the_pointer_to_the_last_run_names_a_run_beside_it(run: RunFolder, text: str) -> None:
    (run.path.parent / "last").write_text(text)
    with pytest.raises(RunError, match="names no run beside it"):
        RunFolder.open(run.path.parent / "last")


LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(LETTERS))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {b: 1, c: 2, 'b': 3}", "the key 'b' stands twice, line 1"),
        (BOMB, "alias"), ("a: &a [*a]", "aliases"), ("[" * 100_000, "too deeply"), ("- " * 5000 + "x", "too deeply"),
        ("a: !!python/object/apply:os.getcwd []", "no YAML"), ("a: 2001-13-40", "month"), ("a: 2001-01-01", "is no plain value"),
        ("a: .nan", "not finite"), (f"a: {2**64}", "64 bits"), ("1: 2", "is no key"), ("? [a]\n: b", "no YAML"),
        ("a: =", "no YAML"),         ("x" * (1 << 21), "characters"), ("a: !!binary aGk=", "bytes"),
    ],
)  # fmt: skip
def test_texts_that_starve_or_confuse_a_reader_are_one_error(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        yaml_value(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the key 'b' stands twice"),
        ("[" * 100_000, "too deeply"), ("[" * 70 + "]" * 70, "too deeply"), ("NaN", "not finite"), ("1e999", "not finite"),
        (str(2**63), "64 bits"), ("1" * 5000, "digits"), ('"\\ud800"', "surrogates"), ("{", "Expecting"), (b"\xff", "decode"),
    ],
)  # fmt: skip
def test_json_is_bounded_too(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        json_value(text)
