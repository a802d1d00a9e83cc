"""Names of backbones, where their weights come from, and which activation they were trained with. Imports no torch.

Mind the activation: weights trained with QuickGELU load into a GELU model without an error and lose accuracy.
"""

from dataclasses import dataclass
from typing import Literal

from ironclip.backbones.robust import ROBUST as ROBUST
from ironclip.backbones.robust import Robust as Robust

Activation = Literal["gelu", "quick_gelu"]
EMBEDDED = ("mini", "mini-robust")
WEIGHTS_FOLDER = "IRONCLIP_WEIGHTS"
"""Environment variable: the folder in which the files of robust checkpoints are looked for."""


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
# Millions of numbers in both towers; a float32 file has four bytes for each.
MILLIONS = {
    "RN50": 102.0, "RN101": 119.7, "ViT-B-32": 151.3, "ViT-B-16": 149.6, "ViT-L-14": 427.6, "ViT-L-14-336": 427.9,
    "ViT-B-16-SigLIP": 203.2, "EVA02-B-16": 149.7, "convnext_base_w": 179.4, "ViT-H-14": 986.1, "ViT-g-14": 1366.7,
}  # fmt: skip
UNKNOWN = "not known to ironclip; look at its source before you use or share this model"
_HERE = "research use: trained in part on Tiny-ImageNet images; see the card of the embedded weights"
# Licences as the model cards on the hub state them, by the beginning of the tag.
_LICENSES = {
    "openai": "MIT (github.com/openai/CLIP)",
    "laion": "MIT (LAION's model cards on the Hugging Face hub)",
    "datacomp": "MIT (LAION's model cards on the Hugging Face hub)",
    "metaclip": "CC-BY-NC-4.0 (not for commercial use)",
    "webli": "Apache-2.0",
    "merged2b": "MIT",
}


def license_of(backbone: str) -> str:
    """The licence of a backbone's weights where it is known; never a guess."""
    if backbone in EMBEDDED:
        return _HERE
    hub = backbone.removeprefix("hf-hub:")
    known = ROBUST.get(backbone) or next((robust for robust in ROBUST.values() if hub == robust.hub != ""), None)
    if known is not None:
        base = license_of(known.base)
        return f"{known.license or 'not stated by its authors'}; tuned from {known.base}: {base}"
    if backbone.startswith("hf-hub:"):
        return UNKNOWN
    _, _, tag = backbone.partition("/")
    return next((text for start, text in _LICENSES.items() if tag.startswith(start)), UNKNOWN)


@dataclass(frozen=True)
class Entry:
    """One line of `ironclip list backbones`: `size` of the file in words, "" where it is not known."""

    name: str
    description: str
    weights: str
    license: str = ""
    size: str = ""


def list_backbones() -> list[Entry]:
    """The names that `load` accepts, with the source, the licence and the size of the weights."""
    inside = "in the package"
    entries = [
        Entry("mini", "our small CLIP, 64 pixels, for demonstrations and tests", inside, license_of("mini")),
        Entry("mini-robust", "its adversarially trained sister, same text tower", inside, license_of("mini-robust")),
    ]
    for name, text in _TAGS.items():
        entries.append(Entry(name, text, "downloaded by open_clip", license_of(name), _size(name.partition("/")[0])))
    for name, robust in ROBUST.items():
        entries.append(
            Entry(
                name,
                f"{robust.architecture}, {robust.source}",
                _place(robust),
                robust.license or "not stated",
                _size(robust.architecture),
            )
        )
    unknown = "see its card on the hub"
    entries.append(
        Entry("hf-hub:ORG/NAME", "an open_clip model or a CLIPModel or SiglipModel of transformers", "downloaded", unknown)
    )
    entries.append(Entry("PATH", "a file or folder that says what it is, such as a cloned repository", "the file", "its own"))
    entries.append(
        Entry("ARCHITECTURE@FILE", "a local file for an architecture, e.g. ViT-B-32@clip.safetensors", "the file", "its own")
    )
    return entries


def _place(robust: Robust) -> str:
    local = f"file {robust.file} in ${WEIGHTS_FOLDER} or weights=FILE" if robust.file else "weights=FILE"
    if robust.hub_file or not robust.hub:
        local += f"; text tower of {robust.base}"
    return f"downloaded from {robust.hub}, or {local}" if robust.hub else local


def _size(architecture: str) -> str:
    millions = MILLIONS.get(architecture)
    return f"about {millions * 4 / 1000:.2f} GB in float32" if millions else ""
