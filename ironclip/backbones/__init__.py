"""Frozen CLIP-like models behind one adapter with edit points.

Everything but `list_backbones` needs torch and is imported on first use, so that the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ironclip.backbones.registry import list_backbones

if TYPE_CHECKING:
    from ironclip.backbones.adapter import ClipBackbone
    from ironclip.backbones.assembly import AdaptedClassifier, ScaledCosine, assemble
    from ironclip.backbones.loading import load
    from ironclip.backbones.prompts import DEFAULT_TEMPLATE, prompt_name, splice

__all__ = [
    "DEFAULT_TEMPLATE",
    "AdaptedClassifier",
    "ClipBackbone",
    "ScaledCosine",
    "assemble",
    "list_backbones",
    "load",
    "prompt_name",
    "splice",
]

_LAZY = {
    "ClipBackbone": "adapter",
    **dict.fromkeys(("AdaptedClassifier", "ScaledCosine", "assemble"), "assembly"),
    "load": "loading",
    **dict.fromkeys(("DEFAULT_TEMPLATE", "prompt_name", "splice"), "prompts"),
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
