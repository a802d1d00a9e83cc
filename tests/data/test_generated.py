import pytest

from ironclip.core.errors import UsageError
from ironclip.data import base_to_new, decode, open_dataset, shapes
from ironclip.data.records import SPLITS


def test_shapes_are_always_there():
    found = open_dataset("shapes")
    assert found.classes == shapes.CLASSES
    assert [len(found.splits[split]) for split in SPLITS] == [3000, 300, 1500]
    assert set(found.counts("test")) == {50}
    assert found.templates == ("a picture of a {}.",)
    for item in found.splits["test"][:31]:
        image, label, _ = shapes.draw("test", item.index)
        assert label == item.label
        assert decode(item.source).tobytes() == image.tobytes()


@pytest.mark.parametrize("style", shapes.STYLES[1:])
def test_styles_show_the_same_scenes(style):
    found = open_dataset(f"shapes:{style}")
    assert found.name == f"shapes-{style}"
    assert found.sha256 != open_dataset("shapes").sha256
    assert decode(found.splits["test"][3].source).tobytes() == shapes.draw("test", 3, style=style)[0].tobytes()


def test_shapes_can_be_drawn_larger():
    source = open_dataset("shapes:sketch:96").splits["train"][0].source
    assert decode(source).size == (96, 96)
    assert source.stamp() != open_dataset("shapes:sketch").splits["train"][0].source.stamp()


def test_base_and_new_are_those_of_the_generator():
    base, new = base_to_new(open_dataset("shapes"))
    assert (base.classes, new.classes) == (shapes.BASE, shapes.NEW)


def test_an_unknown_style_is_refused():
    with pytest.raises(UsageError, match="unknown style of shapes 'sketsh'; did you mean 'sketch'"):
        open_dataset("shapes:sketsh")
