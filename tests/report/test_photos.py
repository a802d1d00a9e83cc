"""The page of labelled images."""

import numpy as np
from reporting import check, panel

from ironclip.protocols.classify import Prediction
from ironclip.protocols.explain import Explained, View
from ironclip.report.photos import photo, photos_page, shrunk, spotlight


def explained(name="a <b>.png", views=3, attention=True, size=64):
    picture = panel(size=size).clean
    shown = tuple(View(panel(seed, size).clean, 0.5 / 2**seed, seed == 0) for seed in range(views))
    found = np.linspace(0, 1, 16).reshape(4, 4) if attention else None
    return Explained(Prediction(name, (("red & blue", 0.75), ("circle", 0.25))), picture, found, shown, 16 if views else 0)


def test_a_photo_shows_prediction_attention_and_views_with_their_weights():
    found = check(photos_page([photo(explained())], title="T", notes=["Left out: <i>."]))
    assert found.tags.count("img") == 2 + 3
    for text in ("a <b>.png", "red & blue", "75.0", "50.0 %", "25.0 %", "12.5 %", "3 of 16 views, with 87.5 %", "Left out: <i>."):
        assert text in found.text
    assert "Framed" in found.text
    assert [value for _, name, value in found.attributes if name == "class"].count("tuned") == 1
    assert all(value.startswith("data:image/png;base64,") for _, name, value in found.attributes if name in ("src", "href"))
    assert not {"script", "link", "iframe"} & set(found.tags)


def test_what_a_model_does_not_have_is_left_out():
    html = photos_page([photo(explained(views=0, attention=False))])
    found = check(html)
    assert found.tags.count("img") == 1
    for word in ("Views:", "Where it looks", "Framed"):
        assert word not in found.text
    assert check(photos_page([])).tags.count("img") == 0


def test_the_spotlight_is_bright_where_the_map_is_high():
    white, attention = np.ones((3, 32, 32)), np.zeros((4, 4))
    attention[0, 0] = 1.0
    lit = spotlight(white, attention)
    assert lit[:, 2, 2].min() > 0.99
    assert abs(lit[:, 20:, 20:] - 0.2).max() < 1e-9
    assert shrunk(white) is white
    assert shrunk(np.ones((3, 224, 224))).shape == (3, 112, 112)
