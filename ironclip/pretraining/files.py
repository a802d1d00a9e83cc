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
    """Write a checkpoint: weights, their average, both moments of AdamW, the rows of the log and the deciding options.

    The file is replaced whole, so a process that is killed leaves the old checkpoint or the new one.

    Args:
        path: of the checkpoint.
        model: its whole state is stored.
        trained: name -> parameter that the optimiser changes.
        optimizer: AdamW, after its first step.
        options: `config.fingerprint` of the run.
        rows: of the log; the last one has the number of steps done.
        averaged: name -> averaged weights; empty where none are kept.

    Raises:
        RunError: the file cannot be written.
    """
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
    """Bring model, optimiser and average to the state that `save` wrote.

    Args:
        path, model, trained, optimizer, options, averaged: as in `save`. Model, optimiser and average are changed in place.

    Returns:
        The rows of the log; the last one has the step to go on from. Empty where there is no such file; then nothing is changed.

    Raises:
        CheckpointError: the file is damaged, belongs to other options or to another model.
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
    """Write weights in float16 and, beside them, a JSON description with their sha256.

    Args:
        state: name -> tensor, of any floating dtype and device.
        path: of the weights; the description has the same name and ends with `.json`.
        note: what the description says besides.

    Returns:
        `path`.

    Raises:
        OSError: a file cannot be written; `core.files.disk_errors` makes one line of it.
    """
    half = {key: tensor.detach().cpu().half().contiguous() for key, tensor in state.items()}
    write_whole(path, lambda temporary: save_file(half, temporary))
    write_json(path.with_suffix(".json"), {**note, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    return path


def add_probe(path: Path) -> None:
    """Add logits to the description of weights; whoever loads the weights later must get the same ones.

    The image tower `mini-robust` is loaded with the text tower of the packaged `mini`.

    Args:
        path: of weights that `export` wrote.

    Raises:
        CheckpointError: the weights cannot be loaded.
        OSError: the description cannot be read or written.
    """
    description = path.with_suffix(".json")
    note = json.loads(description.read_text(encoding="utf-8"))
    write_json(description, note | {"probe": make_probe(load(str(path)))})
