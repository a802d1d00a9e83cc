"""What a pre-training run leaves on the disk: a checkpoint to go on from, and the finished weights. Safetensors and JSON only."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ironclip.backbones.loading import load
from ironclip.backbones.probe import make_probe
from ironclip.core.errors import CheckpointError
from ironclip.core.files import write_json, write_whole

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    path: Path,
    model: nn.Module,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    options: str,
    averaged: Mapping[str, Tensor] | None = None,
) -> None:
    """One file with weights, their average if there is one, both moments of AdamW, the step and the deciding options."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in (averaged or {}).items()}
    for name, parameter in trained.items():
        tensors |= {f"{key}/{name}": optimizer.state[parameter][key] for key in MOMENTS}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, {"step": str(step), "options": options}))


def restore(
    path: Path,
    model: nn.Module,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    options: str,
    averaged: Mapping[str, Tensor] | None = None,
) -> int:
    """Load what `save` wrote, if anything, into model, optimiser and average; return the step to go on from.

    Raises:
        CheckpointError: the file belongs to other options.
    """
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if metadata["options"] != options:
        raise CheckpointError(f"{path} belongs to a run with other options; choose another output folder or remove it")
    tensors, step = load_file(path), int(metadata["step"])
    model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    for name, average in (averaged or {}).items():
        average.copy_(tensors[f"average/{name}"])
    for name, parameter in trained.items():
        moments = {key: tensors[f"{key}/{name}"].to(parameter.device) for key in MOMENTS}
        optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return step


def export(state: Mapping[str, Tensor], path: Path, note: Mapping[str, Any]) -> Path:
    """Write fp16 weights and, beside them, a JSON description with their sha256."""
    half = {key: tensor.detach().cpu().half().contiguous() for key, tensor in state.items()}
    write_whole(path, lambda temporary: save_file(half, temporary))
    write_json(path.with_suffix(".json"), {**note, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    return path


def add_probe(path: Path) -> None:
    """Let the description state logits that loading must reproduce; `mini-robust` joins the packaged `mini`."""
    description = path.with_suffix(".json")
    note = json.loads(description.read_text(encoding="utf-8"))
    write_json(description, note | {"probe": make_probe(load(str(path)))})
