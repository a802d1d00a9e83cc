"""Intervals, paired tests and harmonic means. Plain arithmetic: a record is read without scipy."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from ironclip.core.errors import UsageError


def wilson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high) of a proportion, as fractions.

    Source: E. B. Wilson, 1927; without continuity correction. Unlike the normal interval it stays in [0, 1] and does
    not shrink to a point at 0 or `of` successes.

    Raises:
        UsageError: no trial, or a count that does not fit.
    """
    if of < 1 or not 0 <= count <= of:
        raise UsageError(f"a proportion needs 0 <= count <= of and at least one trial; got {count} of {of}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = count / of
    center = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (0.0 if count == 0 else center - half, 1.0 if count == of else center + half)


def halfway(count: int, of: int, confidence: float = 0.95) -> float:
    """Half the width of the Wilson interval, as a fraction; errors as of `wilson`."""
    low, high = wilson(count, of, confidence)
    return (high - low) / 2


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value that two classifiers are equally good, from the images on which just one of them is right.

    Source: the exact form of McNemar's test: a binomial test with probability 1/2 on the discordant pairs.

    Args:
        only_first: images that only the first classifier gets right.
        only_second: images that only the second gets right.
    """
    if only_first < 0 or only_second < 0:
        raise UsageError(f"counts of images cannot be negative; got {only_first} and {only_second}")
    n, low = only_first + only_second, min(only_first, only_second)
    log_choose = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(low + 1))
    return min(1.0, 2 * math.fsum(math.exp(value - n * math.log(2)) for value in log_choose))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for the number of tests by Holm's step-down procedure (1979), in the order given.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below one before it, none above 1.
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected, worst = [0.0] * len(values), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[at]))
        corrected[at] = worst
    return corrected


def paired(first: Mapping[int, bool], second: Mapping[int, bool], *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Two classifiers on the same images: shares that are right, discordant pairs, McNemar's p, and the difference first - second
    with its 95 % bootstrap interval over images.

    Args:
        first, second: index of an image -> right or not; images of both are compared.

    Raises:
        UsageError: no image in common.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        raise UsageError("the two classifiers were measured on different images; nothing can be paired")
    steps = [int(first[index]) - int(second[index]) for index in common]
    n, draw = len(common), random.Random(seed)
    means = sorted(sum(draw.choices(steps, k=n)) / n for _ in range(draws))
    only_first, only_second = steps.count(1), steps.count(-1)
    return {
        "images": n,
        "first": sum(first[index] for index in common) / n,
        "second": sum(second[index] for index in common) / n,
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar(only_first, only_second),
        "difference": sum(steps) / n,
        "low": means[int(0.025 * draws)],
        "high": means[int(0.975 * draws) - 1],
    }


def harmonic(values: Iterable[float]) -> float:
    """The harmonic mean of fractions; 0 if one of them is 0.

    H2 of (clean, robust) and H4 of (base clean, base robust, new clean, new robust) are taken of accuracies that were
    averaged over seeds, then over data sets: a mean of H2 is not the H2 of means.
    """
    numbers = list(values)
    if not numbers or min(numbers) < 0:
        raise UsageError(f"a harmonic mean needs numbers that are not negative; got {numbers}")
    return len(numbers) / math.fsum(1 / number for number in numbers) if min(numbers) > 0 else 0.0
