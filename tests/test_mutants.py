"""The list of deliberate errors fits the code: each can be made, and the tests it names are there. `make mutants` runs them."""

from collections import Counter
from pathlib import Path

import pytest
import yaml
from mutants.run import BROKEN, KILLED, LIST, ROOT, SURVIVED, Mutant, known, mutants, outcome

MUTANTS = mutants()


def test_there_are_enough_of_them_and_none_comes_twice():
    assert len(MUTANTS) >= 80
    assert not [mutant for mutant, count in Counter(MUTANTS).items() if count > 1]
    assert not [part for part in yaml.safe_load(LIST.read_text()) if set(part) != {"file", "tests", "mutants"}]


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in MUTANTS}))
def test_every_error_can_be_made_in_one_place(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    for mutant in (mutant for mutant in MUTANTS if mutant.file == file):
        assert text.count(mutant.old) == 1, mutant
        compile(text.replace(mutant.old, mutant.new), file, "exec")


def test_the_tests_that_must_fail_are_there():
    for file, function in {tuple(test.split("::")) if "::" in test else (test, "") for each in MUTANTS for test in each.tests}:
        defined = f"def {function.partition('[')[0]}("
        assert not function or defined in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{function}"
        assert (ROOT / file).is_file()


def test_an_error_is_made_tried_and_taken_back(tmp_path: Path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "code.py").write_text("def half(x):\n    return x / 2\n\n\ndef unused(x):\n    return x + 1\n")
    (tmp_path / "tests" / "test_code.py").write_text("from code import half\n\n\ndef test_half():\n    assert half(4) == 2\n")
    tests = ("tests/test_code.py",)
    before = (tmp_path / "code.py").read_text()
    assert outcome(Mutant("code.py", "x / 2", "x / 4", tests), tmp_path) == KILLED
    assert outcome(Mutant("code.py", "x + 1", "x - 1", tests), tmp_path) == SURVIVED
    assert outcome(Mutant("code.py", "x + 1", "x - (", tests), tmp_path) == BROKEN
    assert outcome(Mutant("code.py", "x + 1", "x - 1", ("tests/test_missing.py",)), tmp_path) == BROKEN
    assert (tmp_path / "code.py").read_text() == before


def test_what_is_finished_is_remembered_and_a_torn_line_is_not(tmp_path: Path):
    kept = tmp_path / "kept.jsonl"
    kept.write_text('{"key": "a", "outcome": "killed"}\n{"key": "b", "outc')
    assert known(kept) == {"a": "killed"}
