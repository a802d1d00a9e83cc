"""Radii as people write them, and the threat model as a value."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironclip.core.errors import UsageError
from ironclip.core.threat import Threat, format_eps, parse_eps


@pytest.mark.parametrize(
    ("text", "value"),
    [("4/255", 4 / 255), (" 1 / 255 ", 1 / 255), ("0", 0), ("0.03", 0.03), (0.5, 0.5), (1, 1.0), ("1e-3", 1e-3)],
)
def test_radius_is_read_from_fractions_and_numbers(text, value):
    assert parse_eps(text) == value
    assert isinstance(parse_eps(text), float)


@pytest.mark.parametrize("text", ["four", "4/0", "", "4//255", None, [1]])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(UsageError, match="eps is a number or a fraction such as 4/255"):
        parse_eps(text)


@pytest.mark.parametrize("value", [-1, "-4/255", float("nan"), float("inf")])
def test_negative_and_infinite_radii_are_refused(value):
    with pytest.raises(UsageError, match="eps must be 0 or more and finite"):
        parse_eps(value)


def test_grey_levels_are_suspected_where_the_radius_exceeds_one():
    with pytest.raises(UsageError, match=r"\[0, 1\]; got 4\. Did you mean 4/255\?"):
        parse_eps(4)
    assert parse_eps(4, "l2") == 4


@given(st.integers(0, 1020))
def test_quarter_grey_levels_survive_writing_and_reading(quarters):
    eps = quarters / 4 / 255
    assert parse_eps(format_eps(eps)) == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize(("eps", "text"), [(4 / 255, "4/255"), (0.5 / 255, "0.5/255"), (0, "0"), (0.03, "0.03")])
def test_radius_as_people_write_it(eps, text):
    assert format_eps(eps) == text


def test_threat_prints_what_a_caption_needs():
    assert str(Threat(eps=1 / 255)) == "white-box linf 1/255"
    assert str(Threat(eps=4 / 255, knowledge="static", resolution=64, quantised=True)) == "static linf 4/255 at 64 px quantised"
    assert Threat(**Threat(eps=0.1).as_dict()) == Threat(eps=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "norm must be one of linf, l2, l1, patch, text; got 'l3'"),
        ({"knowledge": "grey"}, "knowledge must be one of white-box"),
        ({"eps": 4}, "Did you mean 4/255"),
    ],
)
def test_wrong_threats_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Threat(**options)


def test_threats_load_no_torch():
    code = "import sys, ironclip.core.threat; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
