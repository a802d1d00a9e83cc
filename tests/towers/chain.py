"""The whole way of a method on a tower: trained, evaluated, opened again, saved, loaded, exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ironclip import defenses, presets
from ironclip.attacks import build
from ironclip.backbones import ClipBackbone
from ironclip.core.errors import UsageError
from ironclip.protocols.config import configure
from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import open_run, train
from ironclip.protocols.measure import evaluate_run
from ironclip.serve.export import export
from ironclip.serve.hub import load_pretrained, save_pretrained
from towers.contract import given

EPS = 8 / 255


def photos(folder: Path) -> Path:
    """Three classes of four images each, as a folder per class."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("cat", "golden_retriever", "tram")):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number in range(4):
            pixels = draw.integers(60 * label, 60 * label + 120, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def walk(name: str, weights: str, backbone: ClipBackbone, data: Path, folder: Path) -> None:
    """Nothing where every step works and every copy answers as the run does.

    Args:
        weights: the name under which `backbone` was loaded.

    Raises:
        IronclipError: a step says that it cannot be taken.
        AssertionError: a copy that answers otherwise, an export that is refused without a reason.
    """
    config = configure(
        {
            "method": name, "backbone": weights, "dataset": str(data), "options": given(name), "shots": 1, "eps": EPS,
            "schedule": {"epochs": 1, "batch_size": 3, "warmup_epochs": 0}, "attack": {"steps": 1},
            "augment": presets.default(name).get("augment", "rrc_flip"),  # AdvPT stores images as they are
        }
    )  # fmt: skip
    run = train(config, out=folder / "run", experiment=open_experiment(config, backbone=backbone))
    run, opened = open_run(run.path, experiment=open_experiment(configure(run.config), backbone=backbone))
    attack = {"pgd": build("pgd", eps=EPS, steps=1)}
    record, _ = evaluate_run(run, opened, attack, eps=EPS, limit=3)
    assert record.images == 3
    saved = load_pretrained(save_pretrained(opened, folder / "saved", records=[record]), backbone=backbone)
    images = torch.rand(2, 3, backbone.spec.resolution, backbone.spec.resolution, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(saved.base(images), opened.base(images))
    if name in defenses.NAMES:
        export(opened, folder / "model.pt2")  # compares with the run itself
        return
    with pytest.raises(UsageError, match="which a fixed graph cannot hold"):
        export(opened, folder / "model.pt2")
