"""The package runs where POSIX is not: none of it is needed to import a module, to train, to evaluate and to go on."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ironclip
from ironclip.core.descriptors import lock, to_change, to_read

PACKAGE = Path(ironclip.__file__).parent  # of a checkout, or as it is installed
MODULES = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"}
CALLS = {
    "fork", "pread", "pwrite", "nice", "mkfifo", "uname", "getuid", "geteuid", "killpg", "setsid", "getpgid", "chown",
    "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "SIGKILL", "SIGHUP", "SIGALRM",
    "alarm", "setitimer", "register_at_fork", "sched_getaffinity",
}  # fmt: skip
GUARDED = {("records/lock.py", "register_at_fork"), ("serve/decoder.py", "nice")}  # behind a look whether they are there


def test_nothing_that_posix_alone_has_is_used_unguarded() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree, name = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(PACKAGE).as_posix()
        for node in tree.body:
            imported = node.names if isinstance(node, ast.Import) else []
            found |= {(name, each.name) for each in imported if each.name in MODULES}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "signal"):
                found |= {(name, node.attr)} & {(name, call) for call in CALLS}
    assert found == GUARDED


SCRIPT = """
import builtins, json, os, pathlib, sys
import filelock, torch, torchvision, open_clip, timm, PIL.Image  # these have their own ways
real = builtins.__import__
def hidden(name, space=None, *rest):
    if name in MODULES and str((space or {}).get("__name__", "")).startswith("ironclip"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, space, *rest)
builtins.__import__ = hidden
for name in CALLS:
    if hasattr(os, name):
        delattr(os, name)
from ironclip.cli import main
run, seen = pathlib.Path("run"), []
for line in (TRAIN, EVALUATE, EVALUATE):
    sys.argv = ["ironclip", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code
    if line == EVALUATE:
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
        seen.append([record["images"], record["robust"]["count"], record["clean"]["count"]])
        lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)  # as if it had been killed in the fourth
        (run / "samples.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
        (run / "record.json").unlink()
print("seen", json.dumps(seen))
"""
TRAIN = "train apt --data shapes --shots 1 --set epochs=1 --set attack.steps=1 --set length=2 --device cpu --out run"
EVALUATE = "evaluate run --attack fgsm --eps 1/255 --limit 8 --device cpu"


def test_train_evaluate_and_resume_without_posix(tmp_path: Path) -> None:
    code = f"MODULES, CALLS, TRAIN, EVALUATE = {MODULES}, {CALLS}, {TRAIN!r}, {EVALUATE!r}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    once, again = json.loads(done.stdout.split("seen ")[1])
    assert once == again
    assert once[0] == 8


def test_a_lock_is_had_once_and_ends_with_its_descriptor(tmp_path: Path) -> None:
    first, second = to_change(tmp_path / "file"), to_change(tmp_path / "file")
    assert lock(first)
    assert not lock(second)
    os.close(first)
    assert lock(second)
    os.close(second)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_no_link_is_followed_where_it_must_not(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="link"):
        to_change(tmp_path / "link")
    with pytest.raises(OSError, match="link"):
        to_read(tmp_path / "link", links=False)
