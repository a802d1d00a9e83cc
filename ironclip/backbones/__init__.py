"""Frozen CLIP-like models behind one adapter with edit points."""

from ironclip.backbones.adapter import ClipBackbone
from ironclip.backbones.assembly import AdaptedClassifier, ScaledCosine, assemble
from ironclip.backbones.prompts import DEFAULT_TEMPLATE, prompt_name, splice

__all__ = ["DEFAULT_TEMPLATE", "AdaptedClassifier", "ClipBackbone", "ScaledCosine", "assemble", "prompt_name", "splice"]
