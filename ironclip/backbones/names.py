"""One form for the names of weights, whatever program saved them: open_clip's, without wrappers, containers and prefixes.

A file may keep its weights inside dictionaries ({"model": {"module.visual.conv1.weight": ...}}), below any prefix, and with the
segments that torch's wrappers add. The weights are found by tensors that only a CLIP has, so no list of prefixes is needed. Other
tensors under the same prefix belong to the model and are never dropped.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ironclip.backbones.foreign import CONVERTERS
from ironclip.core.errors import CheckpointError

Layout = Literal["clip", "visual"]
# What torch.compile, DataParallel, FSDP, DeepSpeed and activation checkpointing put between the parts of a name.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"}
# Where one file holds several state dicts of a CLIP, the one that is meant. TeCoA, Lightning, timm, AdvFLYP and others.
MEANT = ("vision_encoder_state_dict", "state_dict", "model_state_dict", "partial_state_dict", "model", "net", "module")
# Numbers that OpenAI's archives keep among the tensors; `input_resolution` occurs in nobody else's.
OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")
# Constants that some files repeat and the model classes compute.
COMPUTED = re.compile(rf"(.*\.)?({'|'.join(OPENAI_NUMBERS)}|attn_mask|position_ids)")
# A tensor that only this form has, from the whole model to the bare image tower; before it stands the prefix of them all.
ANCHORS = {
    "transformers": re.compile(r"(.*\.)?vision_model\.embeddings\.patch_embedding\.weight"),
    "apple": re.compile(r"(.*\.)?image_encoder\.model\.patch_emb(ed)?\.0\..*"),
    "open_clip": re.compile(r"(.*\.)?visual\.(conv1\.weight|trunk\..+)"),
    "vit": re.compile(r"(.*\.)?class_embedding"),
    "resnet": re.compile(r"(.*\.)?layer1\.0\.conv1\.weight"),
    "timm": re.compile(r"(.*\.)?trunk\..+"),
}
DEEPEST = 6
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def named(path: object, loaded: Any) -> tuple[dict[str, Tensor], Layout, str, bool]:
    """(weights with open_clip's names, their kind, their form in words, whether they are OpenAI's).

    Args:
        path: for messages.
        loaded: what the file held: nested dictionaries of tensors.

    Raises:
        CheckpointError: not one CLIP, or something beside it that is not understood; the message says what was found.
    """
    held, inside = _unpacked(path, loaded)
    held = _unwrapped(path, held)
    found = _form(held)
    if found is None:
        names = ", ".join(list(held)[:3]) or "none"
        raise CheckpointError(f"{path} holds no CLIP weights: expected names such as visual.conv1.weight; got {names}")
    form, prefixes = found
    if len(prefixes) > 1:
        places = " and ".join(repr(prefix) for prefix in sorted(prefixes)[:3])
        raise CheckpointError(f"{path} holds several CLIPs, below {places}; save the one that is meant alone")
    (prefix,) = prefixes
    openai = f"{prefix}input_resolution" in held
    held = {name: tensor for name, tensor in held.items() if not COMPUTED.fullmatch(name)}
    beside = sorted(name for name in held if not name.startswith(prefix))
    if beside:
        raise CheckpointError(f"{path} holds {len(beside)} tensors beside the CLIP below {prefix!r}, first {beside[0]}")
    state = {name.removeprefix(prefix): tensor for name, tensor in held.items()}
    kind = "open_clip's names"
    if form == "transformers":
        state, kind = CONVERTERS["siglip" if "vision_model.head.probe" in state else "clip"](path, state)
    elif form == "apple":
        raise CheckpointError(f"{path} has the names of Apple's MobileCLIP; take open_clip's file (ironclip list backbones)")
    if state and all(name.startswith("visual.") for name in state):
        state, form = {name.removeprefix("visual."): tensor for name, tensor in state.items()}, "vit"
    layout: Layout = "visual" if form in ("vit", "resnet", "timm") else "clip"
    where = "".join(f" under {key!r}" for key in inside) + (f" below {prefix!r}" if prefix else "")
    return state, layout, kind + where, openai


def check_tensors(path: object, state: Mapping[str, Tensor]) -> None:
    """CheckpointError where a tensor holds NaN, integers of a quantised model, or one number repeated."""
    for name, tensor in state.items():
        counter = name.endswith("num_batches_tracked")
        if tensor.dtype not in FLOATS and not counter:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{path} holds {kind} numbers in {name}, as quantised models do; expected float weights")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path} is damaged: {name} repeats its numbers instead of holding them")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path} holds NaN or infinity in {name}")


def _unpacked(path: object, loaded: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(the tensors of the one dictionary that holds a CLIP, the keys that lead to it)."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}; expected a state dict")
    keys: tuple[str, ...] = ()
    while True:
        if isinstance(loaded.get("visual"), Mapping):  # a dictionary for each tower
            return dict(_flat(loaded)), keys
        tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
        inside = [key for key, value in loaded.items() if isinstance(value, Mapping) and _form(dict(_flat(value)))]
        if not inside or _form(tensors):
            return tensors, keys
        meant = [key for key in MEANT if key in inside] or inside
        if len(inside) > 1 and meant is inside:
            listed = " and ".join(sorted(repr(key) for key in inside)[:3])
            raise CheckpointError(f"{path} holds several state dicts, {listed}; save the one that is meant alone")
        if len(keys) == DEEPEST:
            raise CheckpointError(f"{path} nests its state dict more than {DEEPEST} deep")
        loaded, keys = loaded[meant[0]], (*keys, str(meant[0]))


def _flat(value: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dictionaries by its dotted name."""
    for key, each in value.items():
        if isinstance(each, Tensor):
            yield f"{prefix}{key}", each
        elif isinstance(each, Mapping) and depth < DEEPEST:
            yield from _flat(each, f"{prefix}{key}.", depth + 1)


def _unwrapped(path: object, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The name without the segments of wrappers."""
    state: dict[str, Tensor] = {}
    for name, tensor in held.items():
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if plain in state:
            raise CheckpointError(f"{path} holds {plain} twice, with and without a wrapper; save the model that is meant alone")
        state[plain] = tensor
    return state


def _form(held: Mapping[str, Tensor]) -> tuple[str, set[str]] | None:
    """(form, the prefixes under which it stands), or None where there is no CLIP."""
    for form, anchor in ANCHORS.items():
        prefixes = {match[1] or "" for name in held if (match := anchor.fullmatch(name))}
        if prefixes:
            return form, prefixes
    return None
