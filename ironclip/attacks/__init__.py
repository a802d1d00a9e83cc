"""Attacks: (function, images, labels) -> images in the ball.

Each attack is a function in a file of its own and a frozen dataclass that holds its options; the file registers itself by
one line in `_catalogue.CATALOGUE`. Classes are loaded on first use, so that listing names loads no torch.
"""

from typing import TYPE_CHECKING, Any

from ironclip.attacks._catalogue import ADAPTIVE as ADAPTIVE
from ironclip.attacks._catalogue import CATALOGUE as CATALOGUE
from ironclip.attacks._catalogue import DEFAULT as DEFAULT
from ironclip.attacks._catalogue import FIXED as FIXED
from ironclip.attacks._catalogue import MEMBERS as MEMBERS
from ironclip.attacks._catalogue import STANDARD_FAST as STANDARD_FAST
from ironclip.attacks._catalogue import WITHOUT_GRADIENTS as WITHOUT_GRADIENTS
from ironclip.attacks._catalogue import _load
from ironclip.attacks._catalogue import build as build
from ironclip.attacks._catalogue import default as default
from ironclip.attacks._catalogue import describe as describe
from ironclip.attacks._catalogue import rebuild as rebuild

if TYPE_CHECKING:
    from ironclip.attacks.adaptive import Adaptive as Adaptive
    from ironclip.attacks.apgd import APGD as APGD
    from ironclip.attacks.autoattack import AutoAttack as AutoAttack
    from ironclip.attacks.cw import CW as CW
    from ironclip.attacks.di import DI as DI
    from ironclip.attacks.fab import FAB as FAB
    from ironclip.attacks.feature import Feature as Feature
    from ironclip.attacks.fgsm import FGSM as FGSM
    from ironclip.attacks.mim import MIM as MIM
    from ironclip.attacks.pgd import PGD as PGD
    from ironclip.attacks.square import Square as Square
    from ironclip.attacks.standard_fast import StandardFast as StandardFast
    from ironclip.attacks.transfer import Transfer as Transfer


def __getattr__(name: str) -> Any:
    if name == "ATTACKS":
        return {attack: _load(attack) for attack in CATALOGUE}
    for attack, (kind, _) in CATALOGUE.items():
        if kind == name:
            return _load(attack)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
