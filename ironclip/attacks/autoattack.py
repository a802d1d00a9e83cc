"""AutoAttack: a fixed sequence of attacks without a parameter to tune; an image is robust if none of them breaks it.

Source: Croce & Hein 2020 (arXiv 2003.01690); versions and constants [code: fra31/auto-attack]. Deviations: those of its members
(`APGD`, `FAB`, `Square`); any number of classes from two, with min(9, K - 1) targets. An evaluation runs `AutoAttack.members`
one by one, so that its record says which of them broke an image; this attack finds the same images broken. With fewer
steps, queries or members it is not AutoAttack: do not call it so.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from ironclip.attacks._catalogue import MEMBERS, build
from ironclip.attacks._goal import Mode, SearchDtype
from ironclip.attacks._in_turn import InTurn
from ironclip.core.options import check_choice
from ironclip.core.threat import Norm
from ironclip.core.types import Attack

Version = Literal["standard", "plus", "rand"]
VERSIONS: dict[str, dict[str, dict[str, Any]]] = {
    "standard": {"apgd-ce": {}, "apgd-t": {}, "fab-t": {}, "square": {}},
    "plus": {
        "apgd-ce": {"restarts": 5},
        "apgd-dlr": {"restarts": 5},
        "fab": {"restarts": 5, "targets": 0},
        "square": {},
        "apgd-t": {},
        "fab-t": {},
    },
    "rand": {"apgd-ce": {"eot": 20}, "apgd-dlr": {"eot": 20}},
}
"""version -> members in the order in which they run -> options that differ from the member's own."""


@dataclass(frozen=True)
class AutoAttack(InTurn):
    """Images in the ball and in [0, 1]: misclassified ones where any member found one.

    Args:
        eps: radius in the unit of the images.
        version: "standard": apgd-ce, apgd-t, fab-t, square. "plus": also apgd-dlr and untargeted fab, with 5 restarts. "rand",
            for random functions: apgd-ce and apgd-dlr with 20 gradients per step.
        steps: iterations of apgd and fab.
        queries: of square.
        mode: "compact": each member gets the images that are still robust after the earlier ones, and images misclassified from
            the start come back unchanged, as in the released code. "full": every member, every image, every step; for images that
            another function will see.
        eval_mode: run a module in eval mode; False keeps the caller's mode.
        seed: with the index, the key of each image's draws.
        search_dtype: "bfloat16": apgd and square search in that precision and confirm what they find in float32. fab, which
            follows distances to the boundary, stays in float32. Say so beside the number: this is not AutoAttack.
    """

    eps: float
    version: Version = "standard"
    steps: int = 100
    queries: int = 5000
    norm: Norm = "linf"
    mode: Mode = "compact"
    eval_mode: bool = True
    seed: int = 0
    search_dtype: SearchDtype = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("version", self.version, get_args(Version))
        check_choice("search_dtype", self.search_dtype, get_args(SearchDtype))
        check_choice("mode", self.mode, get_args(Mode))

    @property
    def members(self) -> dict[str, Attack]:
        """The attacks by name, in the order in which they run."""
        own = {"steps": self.steps, "queries": self.queries}
        mode = "full" if self.version == "rand" else self.mode  # one success on a random function ends nothing
        made: dict[str, Attack] = {}
        for name, options in VERSIONS[self.version].items():
            kind, settings = MEMBERS[name]
            shared: dict[str, Any] = {"norm": self.norm, "mode": mode, "eval_mode": self.eval_mode, "seed": self.seed}
            if kind != "fab":
                shared["search_dtype"] = self.search_dtype
            length = "queries" if kind == "square" else "steps"
            made[name] = build(kind, eps=self.eps, **settings | options | shared | {length: own[length]})
        return made


ATTACK = AutoAttack
