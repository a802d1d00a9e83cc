"""Every preset in miniature: its settings resolve, build, train and are measured on a tiny random CLIP."""

import pytest

from ironclip import catalogue, presets
from ironclip.backbones.tiny import tiny_backbone
from ironclip.core.errors import UsageError
from ironclip.data import open_dataset
from ironclip.protocols import methods
from ironclip.protocols.config import configure
from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import train
from ironclip.protocols.measure import evaluate_run
from ironclip.protocols.resolve import named_attacks, resolve

NAMES = presets.names()
ROWS = [name for name in NAMES if presets.published(name)]
PAPERS = {"nap", "capt", "defeat", "advmask", "atpt", "apt", "fap", "tecoa", "tga_zsr"}


def settings(name):
    return resolve(presets.preset(name)["method"], "shapes", preset=name, given={})


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_configuration_with_a_source(name):
    config = settings(name)
    assert config.preset == name
    assert config.source
    if "attack" in presets.preset(name):
        assert "eps" in presets.preset(name), "a preset that trains states the radius of its attack"
    assert name.split("/")[0] == config.method
    for key, value in presets.preset(name).get("options", {}).items():
        assert config.options[key] == value


def test_rows_of_the_papers_are_there_and_say_what_they_expect():
    assert {presets.published(name)["paper"] for name in ROWS} >= PAPERS
    for name in ROWS:
        row = presets.published(name)
        assert row["expected"], name
        assert row["read_in"] in ("paper", "summary"), name


def test_the_list_of_presets_says_at_which_radius_they_train():
    listed = catalogue.presets()
    for name in NAMES:
        values = presets.preset(name)
        assert listed[name].startswith("trained at ") == ("attack" in values), name
        assert "attack" not in values or f"trained at {values['eps']}; " in listed[name]


def test_a_preset_takes_over_its_base_and_replaces_what_it_names():
    base, row = presets.preset("fap/default"), presets.preset("fap/cross-dataset")
    assert row["schedule"] == base["schedule"] | {"epochs": 5}
    assert row["options"] == base["options"]
    assert presets.published("fap/default") is None
    with pytest.raises(UsageError, match="did you mean 'fap/default'"):
        presets.preset("fap/defualt")


def test_a_stack_takes_the_preset_of_any_of_its_parts_and_of_no_other():
    config = resolve("nap+advmask", "shapes", preset="advmask/quick", given={})
    assert config.options["advmask.min_steps"] == presets.preset("advmask/quick")["options"]["min_steps"]
    with pytest.raises(UsageError, match="the preset 'capt/quick' is of capt; got the method 'nap\\+advmask'"):
        resolve("nap+advmask", "shapes", preset="capt/quick", given={})


@pytest.fixture(scope="module")
def small():
    """(backbone, the first three classes of the generated images)."""
    data = open_dataset("shapes")
    splits = {split: tuple(item for item in items if item.label < 3) for split, items in data.splits.items()}
    return tiny_backbone(), data.changed(classes=data.classes[:3], splits=splits)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_runs_in_miniature(name, small, tmp_path):
    backbone, data = small
    config = settings(name)
    changes = {"shots": 1, "subset": "all", "backbone": "mini", "weights": None}
    schedule = config.schedule.__dict__ | {"epochs": 1, "batch_size": 3}
    if config.method == "advmask":
        schedule |= {"lr": 0.05, "optimizer": "adamw"}  # one step that is long enough to flip a bit
    attack = config.attack.model_dump() | ({"steps": 1} if config.attack.name == "pgd" else {})
    options = {**config.options, **_fewer(config)}
    tiny = configure({**config.as_dict(), **changes, "schedule": schedule, "attack": attack, "options": options})
    experiment = open_experiment(tiny, backbone=backbone, dataset=data)
    run = train(tiny, root=tmp_path, experiment=experiment)
    record, _ = evaluate_run(run, experiment, named_attacks(["fgsm"], config.eps, 0), eps=config.eps, limit=3, knowledge="static")
    assert record.images == 3
    assert (record.cost.trainable_parameters > 0) == bool(list(experiment.defense.parameters()))


def _fewer(config):
    """Options that only cost time, or that a tower of two layers does not have room for."""
    known = methods.options(config.method)
    small = {
        "views": 4,
        "codes": 8,
        "latent_width": 8,
        "copies": 2,
        "min_steps": 0,
        "length": 2,
        "tokens": 2,
        "generated": 1,
        "depth": 1,
    }
    return {key: value for key, value in small.items() if key in known and (key != "depth" or config.options.get(key))}
