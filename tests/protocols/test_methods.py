"""Names of methods with a test-time part: split, options, and the errors."""

import pytest

from ironclip.core.errors import UsageError
from ironclip.protocols import methods


def test_a_test_time_method_alone_stands_on_zero_shot():
    assert methods.split("aom") == ("zero_shot", "aom")
    assert methods.full("aom") == "zero_shot+aom"
    assert methods.split("nap+apt") == ("nap+apt", None)
    assert methods.split("nap+hep+aom") == ("nap+hep", "aom")


def test_options_carry_their_part_as_soon_as_there_are_two():
    assert "copies" in methods.options("aom")
    assert {"nap.length", "aom.copies"} <= methods.options("nap+aom").keys()
    assert methods.divide("nap+aom", {"nap.length": 3, "aom.copies": 2}) == ({"length": 3}, {"copies": 2})
    assert methods.divide("nap+hep+aom", {"nap.length": 3, "aom.copies": 2}) == ({"nap.length": 3}, {"copies": 2})
    assert methods.divide("aom", {"copies": 2}) == ({}, {"copies": 2})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aom+nap", "write 'nap\\+aom'"),
        ("aom+aom", "at most one"),
        ("nap+aon", "did you mean 'aom'"),
        ("nap+", "unknown method ''"),
    ],
)
def test_wrong_names_fail_with_one_line(name, words):
    with pytest.raises(UsageError, match=words):
        methods.split(name)
    with pytest.raises(UsageError, match="option of aom"):
        methods.divide("aom", {"copiez": 2})
