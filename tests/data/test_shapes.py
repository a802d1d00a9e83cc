import numpy as np
import pytest

from ironclip.core.errors import UsageError
from ironclip.data import shapes


def test_classes_are_all_pairs_and_each_half_knows_every_word():
    assert len(set(shapes.CLASSES)) == 30
    for half in (shapes.BASE, shapes.NEW):
        assert {word for name in half for word in name.split()} == {*shapes.COLORS, *shapes.KINDS}
    assert set(shapes.HELD_OUT) < set(shapes.NEW)
    assert {name.split()[1] for name in shapes.HELD_OUT} == set(shapes.KINDS)


@pytest.mark.parametrize("style", shapes.STYLES)
def test_a_picture_is_a_pure_function_of_its_key(style):
    first, label, caption = shapes.draw("train", 17, style=style)
    again = shapes.draw("train", 17, style=style)
    assert np.array_equal(first, again[0])
    assert (label, caption) == again[1:]
    for split, index, seed in (("train", 47, 0), ("val", 17, 0), ("train", 17, 1)):
        assert not np.array_equal(first, shapes.draw(split, index, style=style, seed=seed)[0])


def test_pretraining_never_meets_a_held_out_pair():
    names = {shapes.CLASSES[shapes.draw("pretrain", i, size=8)[1]] for i in range(120)}
    assert names == set(shapes.CLASSES) - set(shapes.HELD_OUT)


@pytest.mark.parametrize("size", [16, 64, 100])
def test_the_named_colour_is_what_is_painted_at_any_size(size):
    for index in range(30):
        image, label, caption = shapes.draw("test", index, size=size)
        assert image.size == (size, size)
        assert shapes.CLASSES[label] in caption
        pixels = np.asarray(image, float).reshape(-1, 3)
        wanted = np.array(shapes.COLORS[shapes.CLASSES[label].split()[0]])
        assert (np.abs(pixels - wanted).max(1) < 75).mean() > 0.02


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'sketch'"):
        shapes.draw("train", 0, style="scetch")
    with pytest.raises(UsageError, match="'test'"):
        shapes.draw("tests", 0)
