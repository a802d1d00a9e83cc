"""What a pre-training run leaves on the disk: a checkpoint to go on from, and the finished weights. Safetensors and JSON only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ironclip.backbones.loading import load
from ironclip.backbones.probe import make_probe
from ironclip.core.errors import CheckpointError
from ironclip.core.files import write_json, write_whole
from ironclip.records.learned import load_state, save_state

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(
    path: Path,
    model: nn.Module,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    options: str,
    rows: Sequence[Mapping[str, Any]],
    averaged: Mapping[str, Tensor],
) -> None:
    """One file with weights, their average if there is one, both moments of AdamW, the log's rows and the deciding options."""
    moments = {key: {name: optimizer.state[parameter][key] for name, parameter in trained.items()} for key in MOMENTS}
    state = {"options": options, "rows": list(rows), "model": model.state_dict(), "average": dict(averaged), **moments}
    save_state(path, state)


def restore(
    path: Path,
    model: nn.Module,
    trained: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    options: str,
    averaged: Mapping[str, Tensor],
) -> list[dict[str, Any]]:
    """The rows of what `save` wrote, the last of them with the step to go on from; model, optimiser and average are as then.

    Raises:
        CheckpointError: the file is damaged, or belongs to other options.
    """
    if not path.exists():
        return []
    state = load_state(path)
    try:
        if state["options"] != options:
            raise CheckpointError(f"{path} belongs to a run with other options; choose another output folder or remove it")
        model.load_state_dict(state["model"])
        for name, average in averaged.items():
            average.copy_(state["average"][name])
        for name, parameter in trained.items():
            moments = {key: state[key][name].to(parameter.device) for key in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(state["rows"][-1]["step"])), **moments}
        return list(state["rows"])
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError):
        raise CheckpointError(f"{path} is no checkpoint of this model; remove it to train from the start") from None


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
