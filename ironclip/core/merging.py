"""How the changes of several defences are combined on one model: the rules for merging `Adaptation`s."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ironclip.core.errors import AdaptationClash
from ironclip.core.types import Adaptation, Mask, WeightChange


def merge(a: Adaptation, b: Adaptation) -> Adaptation:
    """Both adaptations at once, a's functions and edits first.

    Raises:
        AdaptationClash: both bring a head, a context, different templates, values (other than masks) for one weight, or edits
            that keep tokens at the end of the image sequence.
    """

    def one(what: str, x: Any, y: Any) -> Any:
        if x and y and x != y:
            raise AdaptationClash(f"both defences bring {what}; only one of them can. Stack defences that change different parts")
        return x or y

    def only(what: str, x: Any, y: Any) -> Any:
        if x is not None and y is not None:
            raise AdaptationClash(f"both defences bring {what}; only one of them can. Stack defences that change different parts")
        return x if x is not None else y

    if all(any(getattr(edit, "appends", False) for edit in part.image_edits) for part in (a, b)):
        raise AdaptationClash("both defences append prompts to the image tokens; only one of them can")
    return Adaptation(
        pixels=(*a.pixels, *b.pixels),
        image_edits=(*a.image_edits, *b.image_edits),
        image_weights=_merge_weights(a.image_weights, b.image_weights),
        context=only("a learned text context", a.context, b.context),
        templates=one("prompt templates", a.templates, b.templates),
        text_edits=(*a.text_edits, *b.text_edits),
        text_weights=_merge_weights(a.text_weights, b.text_weights),
        head=only("a classification head", a.head, b.head),
    )


def _merge_weights(a: Mapping[str, WeightChange], b: Mapping[str, WeightChange]) -> dict[str, WeightChange]:
    merged = dict(a)
    for name, change in b.items():
        before = merged.get(name)
        if before is None:
            merged[name] = change
        elif isinstance(before, Mask) and isinstance(change, Mask):
            merged[name] = Mask(before.values * change.values)
        elif isinstance(before, Mask) or isinstance(change, Mask):
            mask, value = (before, change) if isinstance(before, Mask) else (change, before)
            merged[name] = value * mask.values  # type: ignore[operator]
        else:
            raise AdaptationClash(f"both defences bring a value for the weight {name!r}; only masks can be combined")
    return merged


def resolve_weights(changes: Mapping[str, WeightChange], base: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Full tensors for a tower: masks multiplied onto the base weight, replacements as they are."""
    return {name: base(name) * change.values if isinstance(change, Mask) else change for name, change in changes.items()}
