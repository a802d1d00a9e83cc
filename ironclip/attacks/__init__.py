"""Attacks: (function, images, labels) -> images in the ball.

A file `<name>.py` that sets ATTACK to a frozen dataclass is the attack `<name>` (with - for _); nothing else to register. The
fields are its options. Classes are loaded on first use, so that listing names loads no torch.
"""

from typing import TYPE_CHECKING, Any

from ironclip.attacks._catalogue import ADAPTIVE as ADAPTIVE
from ironclip.attacks._catalogue import CATALOGUE as CATALOGUE
from ironclip.attacks._catalogue import DEFAULT as DEFAULT
from ironclip.attacks._catalogue import FIXED as FIXED
from ironclip.attacks._catalogue import FREE as FREE
from ironclip.attacks._catalogue import MEMBERS as MEMBERS
from ironclip.attacks._catalogue import STANDARD_FAST as STANDARD_FAST
from ironclip.attacks._catalogue import build as build
from ironclip.attacks._catalogue import default as default
from ironclip.attacks._catalogue import describe as describe
from ironclip.attacks._catalogue import kind as kind
from ironclip.attacks._catalogue import rebuild as rebuild
from ironclip.attacks._catalogue import usual as usual
from ironclip.attacks._catalogue import without_gradients as without_gradients

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
    from ironclip.attacks.patch import Patch as Patch
    from ironclip.attacks.pgd import PGD as PGD
    from ironclip.attacks.square import Square as Square
    from ironclip.attacks.standard_fast import StandardFast as StandardFast
    from ironclip.attacks.transfer import Transfer as Transfer
    from ironclip.attacks.typographic import Typographic as Typographic


def __getattr__(name: str) -> Any:
    if name == "ATTACKS":
        return {attack: kind(attack) for attack in CATALOGUE}
    for attack, entry in CATALOGUE.items():
        if entry.kind == name:
            return kind(attack)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
