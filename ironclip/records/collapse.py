"""A sentence about a training whose last epoch was at chance level. Imports no torch."""

from collections.abc import Iterable
from typing import Literal, get_args

Seen = Literal["constant answers", "flat logits", "chance loss"]
SIGHTS: dict[str, str] = {
    "constant answers": "nearly all clean training images get the same answer",
    "flat logits": "on clean training images all classes are nearly equally probable",
    "chance loss": "the answers to clean training images differ, so the attack of training wins on nearly every image",
}
UNSEEN = "its answers to clean images were not looked at"
assert set(SIGHTS) == set(get_args(Seen))


def collapse_words(flags: Iterable[str]) -> str:
    """The sentence about a collapsed training; "" where the flags name none. Runs of older versions do not say what was seen."""
    found = list(flags)
    if "collapse" not in found:
        return ""
    sights = [SIGHTS[flag] for flag in found if flag in SIGHTS] or [UNSEEN]
    return f"training collapsed: the loss of its last epoch was that of chance; {'; '.join(sights)}"
