"""ET3: its equations as a loop, its limits, its labels, and its derivative through the steps."""

import pytest
import torch
from torch.testing import assert_close

from ironclip.core.errors import UsageError
from ironclip.testtime import build
from ironclip.testtime._base import image_keys


def slow(base, image, method):
    """The steps for one image [3, H, W], written out."""
    y, step = image, method.alpha * image.shape[-1] / 224
    for _ in range(method.steps):
        y = y.detach().requires_grad_()
        features = base.encode_image(y[None])[0]
        scores = [100 * (features @ t) / features.norm() for t in base.text_features]
        energy = -method.temperature * torch.stack([(z / method.temperature).exp() for z in scores]).sum().log()
        (slope,) = torch.autograd.grad(energy, y)
        y = (y.detach() - step * slope / slope.square().sum().sqrt()).clamp(0, 1)
        y = (image + (y - image).clamp(-method.eps, method.eps)).clamp(0, 1)
    return y


def test_the_transformation_is_the_loop_written_out(base, images):
    method = build("et3", {"alpha": 3.0, "steps": 3, "temperature": 3.0})
    found = method.transformed(base, images)[-1]
    for image, one in zip(images, found, strict=True):
        assert_close(one, slow(base, image, method), atol=1e-5, rtol=0)


def test_limits(base, images):
    with torch.no_grad():
        for options in ({"steps": 0}, {"eps": 0.0}, {"alpha": 0.0}):
            assert_close(build("et3", options)(base)(images), base(images), atol=1e-5, rtol=0)
    method = build("et3", {"alpha": 0.05})
    with torch.no_grad():
        energies = [method.energy(base, seen) for seen in method.transformed(base, images)]
    assert (energies[1] < energies[0]).all()
    assert (energies[2] < energies[1]).all()
    far = build("et3", {"alpha": 500.0}).transformed(base, images)[-1]
    assert (far - images).abs().max() <= 5 / 255 + 1e-6


def test_proxy_labels_replace_the_classes_in_the_energy_alone(base, images, tmp_path):
    same, other = tmp_path / "same.txt", tmp_path / "other.txt"
    same.write_text("\n".join(base.classes) + "\n\n")
    other.write_text("zebra\nviolin\nzebra\n")
    with torch.no_grad():
        plain = build("et3", {})(base)(images)
        assert_close(build("et3", {"proxy": str(same)})(base)(images), plain)
        found = build("et3", {"proxy": str(other)})(base)(images)
    assert found.shape == plain.shape
    assert not torch.allclose(found, plain, atol=1e-4)
    other.write_text("zebra")
    for bad, words in ((other, "at least two"), (tmp_path / "none.txt", "cannot read")):
        with pytest.raises(UsageError, match=words):
            build("et3", {"proxy": str(bad)})(base)


def test_the_unrolled_surrogate_answers_alike_and_knows_how_the_answer_changes(base, images):
    """Its gradient predicts a small change of the answer; the one with the steps held constant does not."""
    method = build("et3", {"alpha": 0.5, "eps": 1.0})
    inside = 0.25 + images / 2  # nothing is clipped
    keys = image_keys(inside, 0)
    unrolled, defended = method.unrolled(base, inside, keys).detach(), method.logits(base, inside, keys).detach()
    assert_close(unrolled, defended, atol=1e-4, rtol=1e-4)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(5)).sign()
    h = 1e-4

    def answer(at):
        with torch.no_grad():
            return method.logits(base, at, keys)[:, 0]

    change = (answer(inside + h * direction) - answer(inside - h * direction)) / (2 * h)

    def predicted(function):
        leaf = inside.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(base, leaf, keys)[:, 0].sum(), leaf)
        return (slope * direction).flatten(1).sum(1)

    error = (predicted(method.unrolled) - change).abs().mean()
    assert error < 0.2 * (predicted(method.logits) - change).abs().mean()


@pytest.mark.parametrize("options", [{"alpha": -1}, {"eps": 2}, {"steps": -1}, {"temperature": 0}])
def test_bad_options_fail_at_construction(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        build("et3", options)
