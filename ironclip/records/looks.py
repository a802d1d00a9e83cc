"""Stopping as soon as an interval is narrow enough, corrected for the looks before. Pure.

Repeated looks at a plain 95 % interval, with a stop when it is narrow, would miss the true value in more than 5 % of cases. So
every look takes an interval at 1 - 0.05 / L, where L is the number of looks that can be needed (Bonferroni): all of them together
then hold at 95 %, and so does the one that is reported. [inferred]
"""

from ironclip.core.errors import UsageError
from ironclip.records.statistics import halfway

FIRST, GROWTH = 100, 2
"""Images of the first look, and by how much each further one is larger."""
RISK = 0.05


def sizes(images: int, points: float) -> list[int]:
    """Images at each look that can be needed until the interval of any proportion is narrower than +- `points` of accuracy,
    the widest case being one half; the last look takes all images where that is not reached.

    Raises:
        UsageError: points below 0 or of 50 and more.
    """
    if not 0 <= points < 50:
        raise UsageError(
            f"--until is half the width of an interval in points, such as 3, at least 0 (all images) and below 50; got {points:g}"
        )
    found = [min(FIRST, images)]
    while found[-1] < images and halfway(found[-1] // 2, found[-1], confidence(len(found))) >= points / 100:
        found.append(min(found[-1] * GROWTH, images))
    return found


def confidence(looks: int) -> float:
    """Of the interval at each of so many looks."""
    return 1 - RISK / looks


def narrow(count: int, of: int, looks: int, points: float) -> bool:
    """Whether the interval at one of so many looks is narrower than +- points of accuracy."""
    return halfway(count, of, confidence(looks)) < points / 100
