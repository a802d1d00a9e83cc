"""Closed forms against scipy, and the numbers the papers print."""

import pytest
from scipy import stats

from ironclip.core.errors import UsageError
from ironclip.records.statistics import harmonic, holm, mcnemar, paired, wilson


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (512, 1000), (49_999, 50_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(count, of, confidence):
    expected = stats.binomtest(count, of).proportion_ci(confidence, method="wilson")
    assert wilson(count, of, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("count", "of"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(count, of):
    with pytest.raises(UsageError, match="at least one trial"):
        wilson(count, of)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (10, 10), (120, 88), (5000, 5100)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(min(first, second), first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("accuracies", "printed"),
    [
        ((50.98, 36.05), 42.23),  # DEFEAT, H2 of averages
        ((69.5, 43.6, 50.2, 26.1), 41.9),  # AdvMask, H4
        ((70.52, 49.58), 58.22),  # CoAPT, base and new
    ],
)
def test_harmonic_means_are_those_of_the_papers(accuracies, printed):
    digits = len(str(printed).split(".")[1])
    assert round(harmonic(accuracies), digits) == printed


def test_a_term_of_zero_makes_the_harmonic_mean_zero():
    assert harmonic((0.7, 0.0)) == 0


def test_a_paired_difference_is_the_firsts_advantage_with_its_bootstrap_interval():
    """60 images right under the first alone, 20 under the second alone, 120 alike: standard error of the mean 0.0424."""
    first = {index: index < 60 or index >= 100 for index in range(200)}
    second = {index: 60 <= index < 80 or index >= 100 for index in range(200)}
    found = paired(first, second)
    assert (found["only_first"], found["only_second"], found["images"]) == (60, 20, 200)
    assert found["difference"] == pytest.approx(0.2)
    assert found["first"] - found["second"] == pytest.approx(0.2)
    error = ((0.4 - 0.2**2) / 200) ** 0.5
    assert found["low"] == pytest.approx(0.2 - 1.96 * error, abs=0.01)
    assert found["high"] == pytest.approx(0.2 + 1.96 * error, abs=0.01)
    turned = paired(second, first)
    assert (turned["difference"], turned["p"]) == (pytest.approx(-0.2), found["p"])


def test_holms_correction_is_the_textbooks():
    """p = 0.01, 0.04, 0.03, 0.005: the smallest times 4, the next times 3, and none below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
