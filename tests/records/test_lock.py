"""One writer per folder, with the operating system's lock and, on a file system without it, with a lease."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from held import held

from ironclip.core.errors import RunBusy, RunError
from ironclip.records import lock
from ironclip.records.lock import locked

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["flock", "lease", "said"])
def kind(request, monkeypatch):
    """With flock; on a file system that has none; told to do without."""
    monkeypatch.delenv(lock.SOFT, raising=False)
    if request.param == "lease":
        monkeypatch.setattr(lock, "lock", refusing(errno.ENOLCK))
    if request.param == "said":
        monkeypatch.setenv(lock.SOFT, "soft")
    return request.param


def refusing(number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    return refuse


def busy(folder) -> bool:
    """Whether another thread is kept out."""
    found = []

    def look():
        try:
            with locked(folder):
                found.append(False)
        except RunBusy:
            found.append(True)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_a_folder_is_held_by_one_at_a_time(tmp_path, kind):
    with locked(tmp_path):
        with pytest.raises(RunBusy, match=f"in use by process {os.getpid()}; wait for it"), locked(tmp_path):
            pass
        assert busy(tmp_path)
    assert not busy(tmp_path)
    assert not (tmp_path / ".lease").exists()


def test_who_waits_gets_it(tmp_path, kind):
    with held(tmp_path) as free:
        threading.Timer(0.2, free.set).start()
        with locked(tmp_path, wait=10):
            pass


@pytest.mark.parametrize("soft", ["", "soft"])
def test_who_is_killed_lets_go(tmp_path, soft, monkeypatch):
    monkeypatch.setenv(lock.SOFT, soft)
    script = f"""
import time
from pathlib import Path
from ironclip.records.lock import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert busy(tmp_path)
        holder.kill()
        holder.wait()
        with locked(tmp_path, wait=5):
            pass


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The lease of a process of another machine."""
    monkeypatch.setenv(lock.SOFT, "soft")
    monkeypatch.setattr(lock, "LEASE", 0.6)
    path = tmp_path / ".lease"
    with locked(tmp_path):
        text = path.read_text()
    other, count = re.subn(r"(?m)^host=.*$", "host=node7", text)
    assert count == 1
    path.write_text(other)
    return path


def test_the_lease_of_another_machine_holds_while_it_is_touched_and_ends_afterwards(elsewhere):
    folder, began = elsewhere.parent, time.monotonic()
    while time.monotonic() < began + 1.2:
        with pytest.raises(RunBusy), locked(folder):
            pass
        os.utime(elsewhere)
        time.sleep(0.05)
    left = time.monotonic()
    with locked(folder, wait=10):
        assert time.monotonic() - left >= 0.4


def test_tries_that_do_not_wait_add_up(elsewhere):
    """Who walks over many folders, as `any/8` does, takes the one whose holder has died in the end."""
    for _ in range(200):
        try:
            with locked(elsewhere.parent):
                return
        except RunBusy:
            time.sleep(0.05)
    pytest.fail("never taken")


def test_who_loses_a_lease_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv(lock.SOFT, "soft")
    monkeypatch.setattr(lock, "LEASE", 0.3)
    ended: list[bool] = []

    def work():
        with locked(tmp_path):
            text = (tmp_path / ".lease").read_text()
            (tmp_path / "other").write_text(re.sub(r"(?m)^token=.*$", "token=" + "0" * 32, text))
            (tmp_path / "other").replace(tmp_path / ".lease")
            time.sleep(20)
            ended.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ended  # it was interrupted in its sleep


def test_another_refusal_of_the_disk_is_no_missing_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "lock", refusing(errno.EIO))
    with pytest.raises(RunError, match=os.strerror(errno.EIO)), locked(tmp_path):
        pass


def test_a_clock_that_was_set_back_takes_no_lease(elsewhere):
    """Its holder renews it, and each time the file is older than before."""
    folder, now = elsewhere.parent, time.time()
    for turn in range(20):
        os.utime(elsewhere, (now - 3600 * turn, now - 3600 * turn))
        with pytest.raises(RunBusy), locked(folder):
            pass
        time.sleep(0.05)
