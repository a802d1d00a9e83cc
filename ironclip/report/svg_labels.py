"""Where the names of points go in a scatter: beside each point, where they cover the least."""

from collections.abc import Sequence

HEIGHT = 14.0
REACH = 5.0
"""Half the side of a marker with some air."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def beside(points: Sequence[tuple[float, float]], widths: Sequence[float], frame: Box) -> list[tuple[float, float]]:
    """Left end of the baseline of each name, in the order of the points.

    Names are placed one after the other: right of the point where that is free, or else where it covers least of the markers, of
    the names before it and of what lies outside the frame.

    Args:
        points: (x, y) in pixels, y downwards.
        widths: of the names, in pixels.
        frame: what names should stay in.
    """
    taken = [(x - REACH, y - REACH, x + REACH, y + REACH) for x, y in points]
    places = []
    for (x, y), width in zip(points, widths, strict=True):
        columns = (x + REACH + 2, x - REACH - 2 - width, x - width / 2)
        rows = (y - HEIGHT / 2, y - REACH - HEIGHT, y + REACH)
        spots = [(left, top, left + width, top + HEIGHT) for top in rows for left in columns]
        best = min(spots, key=lambda spot: (sum(_shared(spot, box) for box in taken) + _outside(spot, frame), spots.index(spot)))
        taken.append(best)
        places.append((best[0], best[3] - 3.5))
    return places


def _shared(one: Box, other: Box) -> float:
    """The area of the overlap."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


def _outside(box: Box, frame: Box) -> float:
    """The area outside of the frame, which counts three times."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return 3 * (whole - _shared(box, frame))
