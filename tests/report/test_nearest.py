"""`compare --published`: the numbers of the same protocol, else the nearest one, of each of ours."""

from types import SimpleNamespace
from typing import Any

from ironclip.report.published import nearest


def row(record: object, metric: str, *differs: str) -> Any:
    return SimpleNamespace(record=record, theirs=SimpleNamespace(metric=metric), differs=differs)


def test_equal_protocols_are_all_kept_and_of_the_others_the_nearest() -> None:
    one, other = object(), object()
    found = [
        row(one, "clean"),
        row(one, "clean"),
        row(one, "clean", "eps"),
        row(other, "clean", "eps"),
        row(other, "clean", "eps", "px"),
    ]
    assert nearest(found) == (found[0], found[1], found[3])
