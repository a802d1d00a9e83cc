"""Part of the zoo, at a small size: each masked kind is flagged or refused, no honest classifier fails. `make zoo` audits all."""

import pytest
from zoo.audit import CHEAP_FIRST, WITHOUT_AUTOATTACK, look_at
from zoo.base import make_bench
from zoo.honest import HONEST
from zoo.masked import MASKED

from ironclip.audit.diagnose import CHECKS


@pytest.fixture(scope="module")
def bench():
    return make_bench(many=24, steps=10, epochs=4, train=600)


def test_the_zoo_runs_every_check_and_is_large_enough():
    assert sorted(CHEAP_FIRST) == sorted(CHECKS)
    assert len(MASKED) >= 30
    assert len(HONEST) >= 12


@pytest.mark.parametrize(
    "name",
    [
        "pixels rounded, straight through", "fine ripple added to the pixels", "logits times 10000", "left half detached",
        "smaller half of the gradient cut", "gradient shifted by 8 pixels", "noise drawn from the image's content",
        "refuses images off the grid", "another answer where a gradient is asked for", "table of coarse images",
        "nearest stored image within 8/255",
    ],
)  # fmt: skip
def test_a_masked_kind_is_flagged(bench, name):
    seen = look_at(name, MASKED[name](bench), bench, stop=True)
    assert seen.flagged, str(seen)


@pytest.mark.parametrize("name", ["trained against PGD", "bfloat16 inside, trained against PGD", "logits a thousandth, for real"])
def test_an_honest_classifier_does_not_fail(bench, name):
    seen = look_at(name, HONEST[name](bench), bench, stop=False, checks=WITHOUT_AUTOATTACK)
    assert not seen.fails, str(seen)
    assert not seen.refused
