"""Adversarially trained CLIPs by name: where to get their weights, and facts about them. Imports no torch.

Radii in the names are those of the training, linf, in units of 1/255. Facts: [README] and hub pages of the sources named.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Robust:
    """An adversarially trained CLIP, or its image tower on top of a published CLIP.

    Args:
        base: the published CLIP it was tuned from; gives what the file does not hold: text tower, scale, activation.
        file: the name under which its authors distribute an image tower; "": not known, or the hub has the whole model.
        source: who trained it and where it is offered.
        hub: repository on the Hugging Face hub. hub_file: the image tower in it; "": it holds the whole model.
        license: of the weights; "": not stated.
    """

    architecture: str
    base: str
    file: str
    source: str
    hub: str = ""
    hub_file: str = ""
    license: str = ""


_APT = "TeCoA on ImageNet, offered with APT (github.com/TreeLLi/APT)"
_VLM = "on ImageNet, offered by github.com/chs20/RobustVLM"
_B32, _B16, _L14 = "ViT-B-32/openai", "ViT-B-16/openai", "ViT-L-14/openai"
_LEAF = "image tower FARE, text tower LEAF, offered by github.com/LIONS-EPFL/LEAF"
_H14, _G14 = "ViT-H-14/laion2b_s32b_b79k", "ViT-g-14/laion2b_s12b_b42k"
_TUNED = "{} on ImageNet from {}, offered by chs20 on the hub"

ROBUST = {
    "tecoa-vitb32-eps1": Robust("ViT-B-32", _B32, "vitb32_eps1.pth.tar", _APT),
    "tecoa-vitb32-eps4": Robust("ViT-B-32", _B32, "vitb32_eps4.pth.tar", _APT),
    "tecoa-rn50-eps1": Robust("RN50", "RN50/openai", "rn50_eps1.pth.tar", _APT),
    "tecoa-rn50-eps4": Robust("RN50", "RN50/openai", "rn50_eps4.pth.tar", _APT),
    "fare-vitb32-eps1": Robust("ViT-B-32", _B32, "vitb32_fare_eps_1.pt", f"FARE {_VLM}"),
    "fare-vitb32-eps4": Robust("ViT-B-32", _B32, "vitb32_fare_eps_4.pt", f"FARE {_VLM}"),
    "advflyp-vitb32-eps1": Robust("ViT-B-32", _B32, "", "AdvFLYP, offered with github.com/Sxing2/AdvFLYP"),
}
for _eps in (2, 4):
    for _method, _words in (("tecoa", "TeCoA"), ("fare", "FARE")):
        ROBUST[f"{_method}-vitl14-eps{_eps}"] = Robust(
            "ViT-L-14", _L14, f"{_method}_eps_{_eps}.pt", f"{_words} {_VLM}", f"chs20/{_method}{_eps}-clip", license="MIT"
        )
    ROBUST[f"simclip-vitl14-eps{_eps}"] = Robust(
        "ViT-L-14", _L14, f"simclip{_eps}.pt", "Sim-CLIP, offered by hossainzarif19 on the hub", "hossainzarif19/SimCLIP",
        f"simclip{_eps}.pt", "MIT",
    )  # fmt: skip
for _name, _architecture, _tag, _repository in (
    ("vitb32-laion", "ViT-B-32", "laion2b_s34b_b79k", "ViT-B-32-laion2B-s34B-b79K"),
    ("vitb16-laion", "ViT-B-16", "laion2b_s34b_b88k", "ViT-B-16-laion2B-s34B-b88K"),
    ("convnext-laion", "convnext_base_w", "laion2b_s13b_b82k_augreg", "convnext_base_w-laion2B-s13B-b82K-augreg"),
):
    for _method, _words in (("fare", "FARE"), ("tecoa", "TeCoA")):
        ROBUST[f"{_method}-{_name}-eps4"] = Robust(
            _architecture, f"{_architecture}/{_tag}", "", _TUNED.format(_words, f"{_architecture}/{_tag}"),
            f"chs20/{_words.upper() if _words == 'FARE' else _words}4-{_repository}", license="MIT",
        )  # fmt: skip
for _size, _architecture, _base, _start in (
    ("vitl14", "ViT-L-14", _L14, "CLIP-ViT-L"),
    ("vith14", "ViT-H-14", _H14, "OpenCLIP-ViT-H"),
    ("vitg14", "ViT-g-14", _G14, "OpenCLIP-ViT-g"),
):
    ROBUST[f"leaf-{_size}-eps2"] = Robust(
        _architecture, _base, "", _LEAF, f"LEAF-CLIP/{_start}-rho50-k1-constrained-FARE2", license="MIT"
    )
    if _size != "vitl14":
        ROBUST[f"fare-{_size}-eps2"] = Robust(
            _architecture, _base, "", "FARE, offered by github.com/LIONS-EPFL/LEAF", f"LEAF-CLIP/{_start}-FARE2", license="MIT"
        )
