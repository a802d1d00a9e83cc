"""The classifier of a fine-tuned tower, and an attack that moves nothing."""

from ironclip.attacks.pgd import PGD
from ironclip.backbones import assemble

METHODS = ("tecoa", "fare", "tga_zsr", "pmg_aft")
STILL = PGD(eps=0, step_size=1 / 255, steps=2, start="zero", keep="last")


def classifier(defense, backbone, classes, **given):
    return assemble(backbone, classes, defense.adaptation(backbone, classes), **given)
