"""Whether attacks use one loss alone, so that the robust accuracy is an upper bound. Pure, without torch."""

from collections.abc import Iterable, Mapping
from typing import Any

BOUND = "≤"
"""Mark of a robust accuracy that one loss alone was run for."""
LEGEND = "one loss: upper bound"
MARGINS = frozenset({"margin", "dlr", "targets"})
KINDS = {"fgsm": "ce", "mim": "ce", "di": "ce", "cw": "margin", "fab": "margin", "square": "margin", "feature": "embedding"}
"""Attack -> what it climbs where its constants name no loss. FAB and Square follow the difference of two logits."""


def mark(bounded: bool) -> str:
    """The mark before a robust accuracy: "≤ " where it is an upper bound, else nothing."""
    return f"{BOUND} " if bounded else ""


def losses(constants: Mapping[str, Any]) -> set[str]:
    """What an attack with these constants (`records.describe`) climbs: "ce", "margin", "dlr", "targets", "kl" ...; members and
    wrapped attacks count, and an attack of several losses lists them under "derived"."""
    derived = constants.get("derived") or {}
    inside = list((derived.get("members") or {}).values()) if isinstance(derived, Mapping) else []
    inside += [constants["inner"]] if isinstance(constants.get("inner"), Mapping) else []
    if inside:
        return {loss for each in inside for loss in losses(each)}
    if isinstance(derived, Mapping) and derived.get("losses"):
        return set(derived["losses"])
    if constants.get("targets"):
        return {"targets"}
    name = str(constants.get("attack", ""))
    return {str(constants.get("loss") or KINDS.get(name, name))}


def one_loss(attacks: Iterable[Mapping[str, Any]]) -> bool:
    """Whether these attacks leave out the cross-entropy, or the margin in all its forms; False where there is no attack."""
    found = [losses(constants) for constants in attacks]
    climbed = set().union(*found)
    return bool(found) and not ("ce" in climbed and climbed & MARGINS)
