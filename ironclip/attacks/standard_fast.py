"""The default worst case: PGD on the cross-entropy, PGD on the margin, APGD towards the nearest wrong classes; fixed.

Source: the losses of Croce & Hein 2020 (arXiv 2003.01690), who show that one loss alone is not enough; the choice of members and
constants is ours [inferred], made by measurement against the whole AutoAttack (`benchmarks/standard_fast.py`, docs/attacks.md).
An evaluation runs `StandardFast.members` one by one, so that its record says which of them broke an image; this attack finds
the same images broken. Not AutoAttack: do not call it so.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from ironclip.attacks._catalogue import STANDARD_FAST, STANDARD_FAST_L1, build
from ironclip.attacks._goal import Mode
from ironclip.attacks._in_turn import InTurn
from ironclip.core.options import check_choice
from ironclip.core.threat import Norm
from ironclip.core.types import Attack


@dataclass(frozen=True)
class StandardFast(InTurn):
    """Images in the ball and in [0, 1]: misclassified ones where any member found one.

    Args:
        eps: radius in the unit of the images.
        mode: "compact": each member meets the images that withstood all before it. "full": every member, every image, every
            step; for images that another function will see.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index, the key of each image's draws.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")

    eps: float
    norm: Norm = "linf"
    mode: Mode = "compact"
    eval_mode: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("mode", self.mode, get_args(Mode))

    @property
    def members(self) -> dict[str, Attack]:
        """The attacks by name, in the order in which they run."""
        shared: dict[str, Any] = {"norm": self.norm, "mode": self.mode, "eval_mode": self.eval_mode, "seed": self.seed}
        table = STANDARD_FAST_L1 if self.norm == "l1" else STANDARD_FAST
        return {name: build(kind, eps=self.eps, **own, **shared) for name, (kind, own) in table.items()}


ATTACK = StandardFast
