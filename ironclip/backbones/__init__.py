"""Frozen CLIP-like models behind one adapter with edit points. Torch is imported on first use, so that listing stays fast."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironclip.backbones.adapter import ClipBackbone as ClipBackbone
    from ironclip.backbones.assembly import AdaptedClassifier as AdaptedClassifier
    from ironclip.backbones.assembly import ScaledCosine as ScaledCosine
    from ironclip.backbones.assembly import assemble as assemble
    from ironclip.backbones.loading import load as load
    from ironclip.backbones.prompts import DEFAULT_TEMPLATE as DEFAULT_TEMPLATE
    from ironclip.backbones.prompts import prompt_name as prompt_name
    from ironclip.backbones.prompts import splice as splice
    from ironclip.backbones.registry import list_backbones as list_backbones

_HOME = {
    "ClipBackbone": "adapter",
    "AdaptedClassifier": "assembly",
    "ScaledCosine": "assembly",
    "assemble": "assembly",
    "load": "loading",
    "DEFAULT_TEMPLATE": "prompts",
    "prompt_name": "prompts",
    "splice": "prompts",
    "list_backbones": "registry",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"ironclip.backbones.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
