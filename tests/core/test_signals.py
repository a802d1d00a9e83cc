"""A process that is told to go leaves what Ctrl-C leaves."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ironclip.core import signals
from ironclip.core.signals import (
    LEAVE,
    SOON,
    Leaving,
    asked_to_leave,
    finishing,
    heard_from_here,
    interrupt,
    leave_if_asked,
    leaving_in_order,
    until_asked,
)


@pytest.mark.parametrize("number", LEAVE)
def test_a_signal_to_go_is_a_keyboard_interrupt_inside_only(number):
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        with pytest.raises(KeyboardInterrupt), leaving_in_order():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with leaving_in_order():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_no_handler():
    seen = []

    def look():
        with leaving_in_order():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


(USR1,) = SOON


def test_who_is_asked_to_leave_soon_leaves_at_the_next_place_where_it_can():
    done = []

    def work():
        with finishing():
            for step in range(3):
                if step == 1:
                    signal.raise_signal(USR1)
                done.append(step)
                leave_if_asked()

    with pytest.raises(Leaving):
        work()
    assert done == [0, 1]
    assert signal.getsignal(USR1) is signal.SIG_DFL
    assert not asked_to_leave(), "the next command is not asked"
    leave_if_asked()


def test_a_signal_is_handed_on_once_the_work_has_been_left():
    heard, done = [], []
    before = signal.signal(USR1, lambda number, frame: heard.append((number, tuple(done))))

    def work():
        with finishing():
            signal.raise_signal(USR1)
            done.append("batch")
            leave_if_asked()

    try:
        with pytest.raises(Leaving):
            work()
        assert heard == [(USR1, ("batch",))]
        with finishing():
            signal.raise_signal(USR1)
        assert len(heard) == 1, "who came to the end has nothing that could be queued again"
    finally:
        signal.signal(USR1, before)


def test_nothing_is_asked_of_who_ignores_it():
    before = signal.signal(USR1, signal.SIG_IGN)
    try:
        with finishing():
            signal.raise_signal(USR1)
            leave_if_asked()
    finally:
        signal.signal(USR1, before)


def test_a_signal_while_a_command_is_imported_is_heard_and_one_at_its_end_is_ignored(monkeypatch):
    monkeypatch.setattr(signals, "_noted", [])
    try:
        with heard_from_here():
            signal.raise_signal(USR1)  # while the rest is imported
            with pytest.raises(Leaving), finishing():
                leave_if_asked()
            assert not asked_to_leave(), "nobody is there who queues the work again"
        signal.raise_signal(USR1)
    finally:
        assert signal.getsignal(USR1) is signal.SIG_IGN
        signal.signal(USR1, signal.SIG_DFL)


def test_a_signal_that_is_noted_breaks_no_call_of_a_library():
    """A library in C that reads from a pipe gets its byte, and no "interrupted system call"."""
    source, sink = os.pipe()
    found = ctypes.create_string_buffer(1)
    read = ctypes.CDLL(None, use_errno=True).read
    main = threading.main_thread().ident

    def interrupt_then_write():
        time.sleep(0.1)
        signal.pthread_kill(main, USR1)
        time.sleep(0.1)
        os.write(sink, b"x")

    other = threading.Thread(target=interrupt_then_write)
    with finishing():
        other.start()
        assert (read(source, found, 1), found.raw) == (1, b"x")
        other.join()
        assert asked_to_leave()
    os.close(source), os.close(sink)


def test_what_takes_long_stops_between_two_items():
    done = []

    def work():
        with finishing():
            for item in until_asked([1, 2, 3]):
                done.append(item)
                signal.raise_signal(USR1)

    with pytest.raises(Leaving):
        work()
    assert done == [1]
    assert list(until_asked([1, 2])) == [1, 2]


PROCESS = """
import signal, sys
class Early:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            signal.raise_signal(signal.SIGUSR1)
sys.meta_path.insert(0, Early())
sys.argv = ["ironclip", *{words!r}]
import runpy
runpy.run_module({module!r}, run_name="__main__")
"""


def test_a_command_that_is_told_before_its_parser_is_imported_lives():
    script = PROCESS.format(words=["--version"], module="ironclip")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout[:8]) == (0, "ironclip"), done.stderr


def test_a_job_in_the_background_is_interrupted_though_its_shell_ignores_ctrl_c():
    def work():
        threading.Thread(target=interrupt).start()
        for _ in range(1000):
            time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
