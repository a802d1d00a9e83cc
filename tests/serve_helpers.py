"""Small trained experiments for the tests of what leaves the house."""

import torch

from ironclip import defenses
from ironclip.backbones.tiny import tiny_backbone
from ironclip.protocols.experiment import Experiment, open_experiment
from ironclip.protocols.resolve import resolve

SMALL = {"length": 2}


def trained(method: str) -> Experiment:
    """A defence on a tiny backbone whose learned tensors were moved, so that it differs from zero-shot classification."""
    known = defenses.options(method)
    changes = [f"{key}={SMALL[last]}" for key in known if (last := key.rpartition(".")[2]) in SMALL]
    config = resolve(method, "shapes", given={"shots": 1}, changes=[f"options.{change}" for change in changes])
    experiment = open_experiment(config, backbone=tiny_backbone(layers=1))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experiment.defense.parameters():
            parameter += 0.1 * parameter.abs().mean().clamp_min(0.1) * torch.randn(parameter.shape, generator=draw)
    return experiment
