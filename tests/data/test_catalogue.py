import json
import subprocess
import sys

import pytest

from ironclip.core.errors import UsageError
from ironclip.data.catalogue import catalogue, choose_templates, entry, templates_of
from ironclip.data.names import shipped_classes


def test_the_eleven_benchmarks_and_their_relatives_are_known():
    assert {
        *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397"),
        *("dtd", "eurosat", "ucf101", "imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r", "tiny_imagenet"),
        *("cifar10", "cifar100", "stl10", "shapes"),
    } <= set(catalogue())
    assert entry("sun397").counts == (15880, 3970, 19850)
    with pytest.raises(UsageError, match="did you mean 'oxford_pets'"):
        entry("oxford_pet")


@pytest.mark.parametrize("name", catalogue())
def test_every_entry_is_complete(name):
    found = entry(name)
    assert found.licence
    assert found.source
    assert found.how()
    assert "http" not in found.how()
    assert all("{}" in template for template in templates_of(name))
    classes = shipped_classes(name)
    assert classes is None or len(classes) == found.classes
    assert found.counts is None or len(found.counts) == 3


@pytest.mark.parametrize("name", [name for name, found in catalogue().items() if found.torchvision])
def test_torchvision_knows_the_classes_it_is_asked_for(name):
    import inspect

    from torchvision import datasets

    kind = getattr(datasets, entry(name).torchvision)
    for arguments in entry(name).arguments.values():
        inspect.signature(kind).bind("root", **arguments)
    # a set that torchvision can fetch has a `download` argument, or its constructor would fail only then
    assert not entry(name).downloads or "download" in inspect.signature(kind).parameters


def test_templates_are_those_of_the_papers(shared):
    prompts = shared / "data" / "prompts"
    for name, template in json.loads((prompts / "coop_templates.json").read_text()).items():
        assert templates_of(name) == (template,)
    ensembles = json.loads((prompts / "templates.json").read_text())
    assert templates_of("imagenet", "ensemble") == tuple(text.replace("{c}", "{}") for text in ensembles["imagenet1k"])
    assert len(templates_of("cifar10", "ensemble")) == 18
    assert templates_of("cifar10", "tecoa") == ("This is a photo of a {}",)


def test_templates_by_kind_by_text_and_by_default():
    assert choose_templates("unheard of", None) == ("a photo of a {}.",)
    assert choose_templates("dtd", None) == ("{} texture.",)
    assert choose_templates("dtd", "ensemble")[0] == "a photo of a {} texture."
    assert choose_templates("dtd", "one {}") == ("one {}",)
    assert choose_templates("dtd", ["one {}", "two {}"]) == ("one {}", "two {}")
    with pytest.raises(UsageError, match="unknown kind of templates 'ensembel'; did you mean 'ensemble'"):
        choose_templates("dtd", "ensembel")
    with pytest.raises(UsageError, match="there are no tecoa templates for 'ucf101'"):
        choose_templates("ucf101", "tecoa")


def test_listing_data_sets_needs_no_torch():
    code = (
        "import sys, ironclip.data as d; d.catalogue(); d.available(); d.open_dataset('shapes'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
