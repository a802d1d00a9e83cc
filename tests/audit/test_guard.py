"""Code of others cannot end the process, pass its end for an answer, or leave something behind; a real Ctrl-C interrupts."""

import contextlib
import os
import signal
import sys

import pytest

from ironclip.audit.guard import guarded
from ironclip.core.errors import DataError, UsageError


def raising(error):
    def run():
        raise error

    return run


def usage():
    import argparse

    parser = argparse.ArgumentParser(prog="theirs")
    parser.add_argument("--weights", required=True)
    parser.parse_args()


ENDINGS = {
    "exit 0": (lambda: sys.exit(0), "it ends the process with status 0"),
    "exit": (lambda: sys.exit(), "it ends the process with status 0"),
    "exit words": (lambda: sys.exit("x"), "it ends the process with x"),
    "exit lines": (lambda: sys.exit("x\ny"), "it ends the process with x"),
    "system exit": (raising(SystemExit(3)), "it ends the process with status 3"),
    "keyboard": (raising(KeyboardInterrupt()), "KeyboardInterrupt: no message"),
    "generator": (raising(GeneratorExit()), "GeneratorExit: no message"),
    "stop": (raising(StopIteration("done")), "StopIteration: done"),
    "own base": (raising(type("Odd", (BaseException,), {})("a\nb")), "Odd: a"),
    "error": (raising(KeyError("weights")), "KeyError: 'weights'"),
    "argparse": (usage, "it ends the process with status 2 (theirs: error: the following arguments are required: --weights)"),
    "_exit": (lambda: os._exit(0), "it calls os._exit to end the process"),
    "abort": (lambda: os.abort(), "it calls os.abort to end the process"),
    "exec": (lambda: os.execvp("true", ["true"]), "it calls os.execve to end the process"),
    "execl": (lambda: os.execl("/bin/true", "true"), "it calls os.execv to end the process"),
}


@pytest.mark.parametrize(("code", "words"), ENDINGS.values(), ids=list(ENDINGS))
def test_whatever_ends_it_is_one_line(code, words, capsys):
    with pytest.raises(UsageError) as caught, guarded("the target stops"):
        code()
    assert str(caught.value).startswith(f"the target stops: {words}".removesuffix("execve to end the process"))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_an_end_that_is_caught_by_the_code_itself_is_none():
    with guarded("the target stops"), contextlib.suppress(SystemExit):
        sys.exit(0)


def test_errors_of_ironclip_pass_and_what_is_said_goes_to_standard_error(capsys):
    with pytest.raises(DataError, match="no image"), guarded("the target stops"):
        raise DataError("no image")
    with guarded("the target stops"):
        print("loading")
    assert capsys.readouterr() == ("", "loading\n")


def test_nothing_is_left_behind(tmp_path):
    (tmp_path / "beside_it.py").write_text("value = 3\n")
    before = sys.path.copy(), sys.argv, os._exit, signal.getsignal(signal.SIGINT)
    with guarded("the target stops", tmp_path):
        import beside_it  # type: ignore[import-not-found]

        assert beside_it.value == 3
        assert len(sys.argv) == 1
    assert (sys.path, sys.argv, os._exit, signal.getsignal(signal.SIGINT)) == before
    with pytest.raises(UsageError), guarded("the target stops", tmp_path):
        sys.exit(0)
    assert (sys.path, sys.argv, os._exit, signal.getsignal(signal.SIGINT)) == before


def test_files_of_the_same_name_in_two_folders_are_two_modules(tmp_path):
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "its_twin.py").write_text(f"value = {value}\n")
    found = []
    for value in (1, 2, 1):
        with guarded("the target stops", tmp_path / str(value)):
            import its_twin  # type: ignore[import-not-found]

            found.append(its_twin.value)
    assert found == [1, 2, 1]
    sys.modules.pop("its_twin")


@pytest.fixture
def interruptible():
    """A background process may be started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_real_interrupt_interrupts(interruptible):
    with pytest.raises(KeyboardInterrupt), guarded("the target stops"):
        signal.raise_signal(signal.SIGINT)


def test_a_child_process_may_end_itself():
    with guarded("the target stops"):
        if not (child := os.fork()):
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
