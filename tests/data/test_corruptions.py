"""Common corruptions: every kind changes an image, more so at a higher severity, and always in the same way."""

import numpy as np
import pytest
import torch

from ironclip.data import open_dataset
from ironclip.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from ironclip.protocols.corruption_table import corruption_table


@pytest.fixture(scope="module")
def picture():
    """Smooth colors with one edge, away from black and white."""
    down, across = np.mgrid[:48, :64] / 64
    return np.stack([0.3 + 0.4 * down, 0.7 - 0.4 * across, np.where(down > 0.4, 0.3, 0.6)], 2)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_a_picture_and_grows_with_its_severity(kind, picture):
    made = [corrupted(picture, kind, severity, index=3) for severity in SEVERITIES]
    for one in made:
        assert one.shape == picture.shape
        assert (one * 255 == np.round(one * 255)).all()
        assert 0 <= one.min() <= one.max() <= 1
    moved = [float(np.abs(one - picture).mean()) for one in made]
    assert moved[0] > 1e-3
    assert moved[4] > moved[0] or kind == "elastic_transform"  # there the first severities are of another kind


@pytest.mark.parametrize(
    "kind", ["gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "snow", "fog", "elastic_transform"]
)
def test_what_is_drawn_depends_on_seed_and_index_alone(kind, picture):
    one = corrupted(picture, kind, 3, index=3)
    np.random.seed(5)  # noqa: NPY002 - the state of the caller plays no part
    assert (one == corrupted(picture, kind, 3, index=3)).all()
    assert (one != corrupted(picture, kind, 3, index=4)).any()
    assert (one != corrupted(picture, kind, 3, index=3, seed=1)).any()


def test_known_values(picture):
    flat = np.full((32, 32, 3), 0.4)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"):
        assert np.abs(corrupted(flat, kind, 5, index=0) - 0.4).max() < 1 / 255
    assert np.abs(corrupted(flat, "brightness", 2, index=0) - 0.6).max() < 1 / 255
    mean = picture.mean((0, 1), keepdims=True)
    assert np.abs(corrupted(picture, "contrast", 4, index=0) - (mean + 0.1 * (picture - mean))).max() < 1 / 255
    struck = corrupted(np.full((64, 64, 3), 0.5), "impulse_noise", 5, index=0)
    assert np.isin(struck, (0.0, 1.0)).mean() == pytest.approx(0.27, abs=0.02)


def test_the_table_counts_each_cell_and_leaves_clean_pictures_alone():
    dataset = open_dataset("shapes")

    class Bright(torch.nn.Module):
        """Class 0 for images that are brighter than they were."""

        classes = dataset.classes

        def forward(self, images):
            return torch.nn.functional.one_hot((images.mean((1, 2, 3)) < 0.8).long(), len(dataset.classes)).float()

    seen = []
    found = corruption_table(
        Bright(), dataset, resolution=32, limit=20, batch_size=7, kinds=("brightness", "contrast"),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert found.clean.of == 20
    assert list(found.kinds) == ["brightness", "contrast"]
    assert seen[-1] == (10, 10)
    again = corruption_table(Bright(), dataset, resolution=32, limit=20, batch_size=20, kinds=("brightness", "contrast"))
    assert again == found
    assert found.mean == pytest.approx(sum(part.value for parts in found.kinds.values() for part in parts) / 10)
