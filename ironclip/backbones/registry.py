"""Names of backbones, where their weights come from, and which activation they were trained with. Imports no torch.

The activation is the trap: weights trained with QuickGELU load into a GELU model without an error and lose accuracy.
"""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["gelu", "quick_gelu"]
EMBEDDED = ("mini", "mini-robust")
WEIGHTS_FOLDER = "IRONCLIP_WEIGHTS"
"""Environment variable: the folder in which the files of robust checkpoints are looked for."""


@dataclass(frozen=True)
class Robust:
    """An adversarially trained image tower that is distributed as one file, on top of a published CLIP.

    Args:
        base: gives everything the file does not hold: text tower, scale, activation.
        file: the name under which its authors distribute it.
        source: who trained it and where the file is offered.
    """

    architecture: str
    base: str
    file: str
    source: str


_APT = "TeCoA on ImageNet, offered with APT (github.com/TreeLLi/APT)"
_VLM = "on ImageNet, offered by github.com/chs20/RobustVLM"
ROBUST = {
    "tecoa-vitb32-eps1": Robust("ViT-B-32", "ViT-B-32/openai", "vitb32_eps1.pth.tar", _APT),
    "tecoa-vitb32-eps4": Robust("ViT-B-32", "ViT-B-32/openai", "vitb32_eps4.pth.tar", _APT),
    "tecoa-rn50-eps1": Robust("RN50", "RN50/openai", "rn50_eps1.pth.tar", _APT),
    "tecoa-rn50-eps4": Robust("RN50", "RN50/openai", "rn50_eps4.pth.tar", _APT),
    "tecoa-vitl14-eps2": Robust("ViT-L-14", "ViT-L-14/openai", "tecoa_eps_2.pt", f"TeCoA {_VLM}"),
    "tecoa-vitl14-eps4": Robust("ViT-L-14", "ViT-L-14/openai", "tecoa_eps_4.pt", f"TeCoA {_VLM}"),
    "fare-vitl14-eps2": Robust("ViT-L-14", "ViT-L-14/openai", "fare_eps_2.pt", f"FARE {_VLM}"),
    "fare-vitl14-eps4": Robust("ViT-L-14", "ViT-L-14/openai", "fare_eps_4.pt", f"FARE {_VLM}"),
}

# Tags of open_clip trained with QuickGELU; every other tag it lists was trained with GELU. None: in every architecture.
QUICK_GELU: dict[str, tuple[str, ...] | None] = {
    "openai": None,
    "yfcc15m": None,
    "cc12m": None,
    "metaclip_400m": None,
    "metaclip_fullcc": None,
    "dfn2b": None,
    "dfn5b": None,
    "laion400m_e31": ("ViT-B-32",),
    "laion400m_e32": ("ViT-B-32",),
    "metaclip2_worldwide": ("ViT-H-14-worldwide",),
}


def tag_activation(architecture: str, tag: str) -> Activation:
    """The activation behind an open_clip tag such as `openai` or `laion2b_s34b_b79k`."""
    key = tag.lower().replace("-", "_")
    where = QUICK_GELU.get(key, ())
    return "quick_gelu" if where is None or architecture.removesuffix("-quickgelu") in where else "gelu"


# A choice for `ironclip list backbones`; any other `architecture/tag` of open_clip loads as well.
_TAGS = {
    "RN50/openai": "OpenAI's CLIP",
    "RN101/openai": "OpenAI's CLIP",
    "ViT-B-32/openai": "OpenAI's CLIP",
    "ViT-B-16/openai": "OpenAI's CLIP",
    "ViT-L-14/openai": "OpenAI's CLIP",
    "ViT-L-14-336/openai": "OpenAI's CLIP at 336 pixels",
    "ViT-B-32/laion2b_s34b_b79k": "trained on LAION-2B",
    "ViT-B-16/laion2b_s34b_b88k": "trained on LAION-2B",
    "ViT-B-16/datacomp_xl_s13b_b90k": "trained on DataComp-1B",
    "ViT-B-32/metaclip_400m": "MetaCLIP",
    "ViT-B-16-SigLIP/webli": "SigLIP, sigmoid loss (its tokenizer needs the package transformers)",
    "EVA02-B-16/merged2b_s8b_b131k": "EVA-02 CLIP",
    "convnext_base_w/laion2b_s13b_b82k": "ConvNeXt image tower: no edit points",
}


@dataclass(frozen=True)
class Entry:
    """One line of `ironclip list backbones`."""

    name: str
    description: str
    weights: str


def list_backbones() -> list[Entry]:
    """What `load` accepts by name, with where each gets its weights."""
    inside = "in the package"
    entries = [
        Entry("mini", "our small CLIP, 64 pixels, for demonstrations and tests", inside),
        Entry("mini-robust", "its adversarially trained sister, same text tower", inside),
    ]
    entries += [Entry(name, text, "downloaded by open_clip") for name, text in _TAGS.items()]
    for name, robust in ROBUST.items():
        place = f"file {robust.file} in ${WEIGHTS_FOLDER} or weights=FILE; text tower of {robust.base}"
        entries.append(Entry(name, f"{robust.architecture}, {robust.source}", place))
    entries.append(
        Entry("hf-hub:ORG/NAME", "an open_clip model on the Hugging Face hub, e.g. hf-hub:chs20/fare4-clip", "downloaded")
    )
    entries.append(
        Entry("ARCHITECTURE@FILE", "a local file for an open_clip architecture, e.g. ViT-B-32@clip.safetensors", "the file")
    )
    return entries
