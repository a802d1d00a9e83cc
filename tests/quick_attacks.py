"""Every attack of the catalogue at a small size."""

from dataclasses import fields

import pytest
import torch
from toys import convnet, pictures, predicted

from ironclip.attacks import ATTACKS, CATALOGUE, build

# A transfer attack needs a classifier with class names and a source backbone: tests/attacks/test_transfer.py.
NAMES = sorted(set(CATALOGUE) - {"transfer", "patch", "typographic"})  # no balls: tests/attacks/test_other_threats.py


LABELLED = [name for name in NAMES if name != "feature"]  # the others raise a distance of embeddings, whatever the label
QUICK = {"steps": 9, "restarts": 1, "seed": 3, "queries": 60}


def has(name, option):
    return option in {field.name for field in fields(ATTACKS[name])}


def having(*wanted, among=NAMES):
    """The attacks that have all of these options."""
    return [name for name in among if all(has(name, option) for option in wanted)]


def quick(name, eps=0.1, **wanted):
    """The attack with few steps and the wanted options."""
    return build(name, eps=eps, **{**{option: value for option, value in QUICK.items() if has(name, option)}, **wanted})


def variants(name):
    """The attack and its siblings: every value of its closed options that changes the computation."""
    options = [{}]
    for option, values in {
        "norm": ["l2"], "keep": ["last"], "mode": ["compact"], "box": ["forward"], "start": ["zero", "one_sided", "gaussian"],
        "loss": ["margin", "dlr"], "targeted": [True], "restarts": [2], "random_start": [True],
    }.items():  # fmt: skip
        options += [{option: value} for value in values if has(name, option)]
    if has(name, "loss"):
        options.append({"loss": "kl", "random_start": True} if has(name, "random_start") else {"loss": "kl"})
    return options


ALL = [pytest.param(name, options, id=f"{name}-{options or 'default'}") for name in NAMES for options in variants(name)]


def scene(classes=5, dtype=torch.float32, model=convnet):
    model, images = model(classes, dtype=dtype), pictures(dtype=dtype)
    return model, images, predicted(model, images)
