"""The learning rate of a real training: one cosine over all steps, however often an epoch passes over the images."""

import numpy as np
import pytest
from PIL import Image

from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.types import Defense
from ironclip.data import open_dataset
from ironclip.defenses import NAMES, method
from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import train
from ironclip.protocols.resolve import resolve

PASSING = [name for name in NAMES if method(name).passes is not Defense.passes]
STEPS, WARMUP, EPOCHS, LR = 12, 2, 3, 0.01
CHANGES = [f"epochs={EPOCHS}", f"warmup_steps={WARMUP}", "batch_size=1", "attack.steps=1", "optimizer=adamw", f"lr={LR}"]


@pytest.fixture
def photos(tmp_path):
    """Two classes of four images; at one shot a pass has two steps."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("dark", "bright")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(128 * label, 128 * label + 128, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def passing(name):
    """The option of the part that passes over the images several times, so that there are `STEPS` steps."""
    part = next(part for part in name.split("+") if part in PASSING)
    return f"{part}.min_steps={STEPS}" if "+" in name else f"min_steps={STEPS}"


def check(rates):
    """One linear warm-up, then one cosine that only falls and ends near zero."""
    assert len(rates) == STEPS
    assert rates[:WARMUP] == pytest.approx([LR * (step + 1) / WARMUP for step in range(WARMUP)])
    assert rates[WARMUP] == LR
    assert all(after < before for before, after in zip(rates[WARMUP:], rates[WARMUP + 1 :]))
    assert rates[-1] < 0.05 * LR


def test_some_method_passes_over_its_images_more_than_once():
    assert "advmask" in PASSING


@pytest.mark.parametrize("name", [*PASSING, *(f"apt+{name}" for name in PASSING)])
def test_the_rate_is_one_cosine_over_all_passes_also_after_an_interruption(photos, tmp_path, name):
    changes = [*CHANGES, passing(name), *(["apt.length=1"] if "+" in name else [])]
    config = resolve(name, str(photos), given={"shots": 1, "backbone": "mini", "seed": 1}, changes=changes)
    dataset = open_dataset(str(photos))
    backbone = tiny_backbone()
    whole, cut, runs = [], [], []

    def note(rates, stop=0):
        def callback(event):
            if stop and event["epoch"] == stop:
                raise KeyboardInterrupt
            if event["event"] == "step":
                rates.append(event["lr"])
                assert event["steps"] == STEPS // EPOCHS

        return callback

    def once(out, callback):
        experiment = open_experiment(config, backbone=backbone, dataset=dataset)
        runs.append(train(config, out=tmp_path / out, callback=callback, experiment=experiment))

    once("whole", note(whole))
    check(whole)
    with pytest.raises(KeyboardInterrupt):
        once("cut", note(cut, stop=2))
    once("cut", note(cut))
    assert cut == whole
