"""On what a run was made, also where git is slow; and which two versions of the program are the same."""

import subprocess

import pytest

from ironclip.records import environment
from ironclip.records.shards import versions


@pytest.fixture
def git(monkeypatch):
    """Stands for git: what it says to each of its commands; an error is raised."""
    said = {"ls-files": "__init__.py", "rev-parse": "abc", "status": ""}

    def run(words, **_):
        answer = said[words[1]]
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess(words, 0 if answer is not None else 1, answer or "", "")

    monkeypatch.setattr(environment.subprocess, "run", run)
    return said


@pytest.mark.parametrize(
    ("status", "commit"),
    [("", "abc"), (" M x.py", "abc+changes"), (None, "abc+unknown"), (subprocess.TimeoutExpired("git", 10), "abc+unknown")],
)
def test_a_commit_is_not_called_clean_where_git_did_not_say_so(git, status, commit):
    git["status"] = status
    assert environment.environment()["commit"] == commit


def test_a_package_that_is_not_there_is_absent(git, monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    found = environment.packages()
    assert found["torch"][0].isdigit()
    assert found["no-such-package"] == "absent"


def test_outside_a_checkout_there_is_no_commit(git):
    git["ls-files"] = None
    assert "commit" not in environment.environment()


def test_shards_agree_on_the_code_itself_and_need_no_git(tmp_path, monkeypatch):
    """A scheduler's signal to all processes of a job ends git as well, and a busy machine makes it late."""
    monkeypatch.setattr(environment.subprocess, "run", None)
    environment.code.cache_clear()
    assert set(versions()) == {*environment.PACKAGES, "code"}
    monkeypatch.setattr(environment, "OURS", tmp_path)
    seen = set()
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2")):
        (tmp_path / "a.py").unlink(missing_ok=True)
        (tmp_path / name).write_text(text)
        environment.code.cache_clear()
        seen.add(environment.code())
    environment.code.cache_clear()
    assert len(seen) == 3
