"""A process that is told to go leaves what Ctrl-C leaves."""

import os
import signal
import threading

import pytest

from ironclip.core.signals import LEAVE, SOON, Leaving, asked_to_leave, finishing, leave_if_asked, leaving_in_order


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
