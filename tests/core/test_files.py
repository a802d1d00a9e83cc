"""Whole files, whole lines, and what the disk may do to them."""

import errno
import os
import subprocess
import sys

import pytest

from ironclip.core.errors import RunError
from ironclip.core.files import append_lines, disk_errors, read_lines, sweep, write_json, write_text, write_whole


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_line_without_its_end_is_dropped_and_overwritten(tmp_path):
    path = tmp_path / "log.jsonl"
    append_lines(path, ["one", "two"])
    with path.open("ab") as file:
        file.write("thr\u00e9e".encode()[:4])
    assert read_lines(path) == ["one", "two"]
    append_lines(path, ["three"])
    assert path.read_text() == "one\ntwo\nthree\n"


def test_every_cut_of_a_file_gives_its_whole_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    append_lines(path, ["one", "", "three"])
    content = path.read_bytes()
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        assert read_lines(path) == content[:length].decode().split("\n")[:-1]


def test_a_full_disk_leaves_the_lines_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    append_lines(path, ["one"])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        append_lines(path, ["two"])
    assert path.read_text() == "one\n"


def test_a_full_disk_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_json(path, {"clean": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot use .*record.json: No space left on device"), disk_errors(path):
        write_text(path, "x" * 1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text() == '{\n "clean": 1\n}\n'


def test_a_file_over_the_limit_is_cut_back(tmp_path):
    """A real short write: the process may write 50 bytes to a file and no more."""
    path = tmp_path / "samples.jsonl"
    script = f"""
import resource, signal
from pathlib import Path
from ironclip.core.files import append_lines
path = Path({str(path)!r})
append_lines(path, ["a" * 30])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
try:
    append_lines(path, ["b" * 30])
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert path.read_text() == "a" * 30 + "\n"


@pytest.mark.parametrize("ending", ["", ".onnx"])
def test_what_a_killed_writer_left_is_removed_and_a_living_writer_is_left_alone(tmp_path, ending):
    die = "lambda temporary: (temporary.write_text('half'), os.kill(os.getpid(), 9))"
    script = "import os, sys; from pathlib import Path; from ironclip.core.files import write_whole; "
    killed = subprocess.run(
        [sys.executable, "-c", f"{script} write_whole(Path({str(tmp_path / 'model.onnx')!r}), {die}, ending={ending!r})"]
    )
    assert killed.returncode == -9
    (tmp_path / ".mine.tmp").touch()
    (left,) = tmp_path.glob(".model.onnx.*")
    seen = []

    def write(temporary):
        assert temporary.name.endswith(ending)
        seen.append(left.exists())
        sweep(tmp_path)  # as another process does that starts just now
        seen.append(temporary.exists())
        temporary.write_text("whole")

    write_whole(tmp_path / "other.onnx", write, ending=ending)
    assert seen == [False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "other.onnx"]


@pytest.mark.parametrize("fails", ["replace", "chmod"])
def test_a_disk_that_does_not_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    write_text(tmp_path / "record.json", "old")

    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(type(tmp_path), fails, refuse)
    with pytest.raises(RunError, match="Operation not permitted"), disk_errors(tmp_path):
        write_text(tmp_path / "record.json", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"record.json": "old"}
