"""A few of the random command lines and damaged images of `make fuzz`."""

from pathlib import Path

from fuzz import lines, pictures


def test_random_command_lines_end_in_order(tmp_path: Path) -> None:
    lines.furnish(tmp_path)
    assert lines.failures(tmp_path, seed=3, count=40, seconds=5.0) == []


def test_damaged_pictures_are_read_or_named() -> None:
    ends, wrong = pictures.failures(seed=3, count=300)
    assert not wrong
    assert min(ends["read"], ends["refused"]) > 20
