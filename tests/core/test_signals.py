"""A process that is told to go leaves what Ctrl-C leaves."""

import os
import signal
import threading

import pytest

from ironclip.core.signals import LEAVE, leaving_in_order


@pytest.mark.parametrize("number", LEAVE)
def test_a_signal_to_go_is_a_keyboard_interrupt_inside_only(number):
    with pytest.raises(KeyboardInterrupt), leaving_in_order():
        signal.raise_signal(number)
    assert signal.getsignal(number) is signal.SIG_DFL


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
