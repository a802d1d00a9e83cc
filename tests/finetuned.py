"""What tests of fine-tuning methods share: weights off their start, a recorded inner attack, stored gradients."""

import torch
from parity import assert_matches

from ironclip.core.losses import cross_entropy_each
from ironclip.core.tensors import ascend, value_and_slope


def stirred(defense, std: float = 0.05):
    """The defence with every parameter moved by noise of this standard deviation."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in defense.parameters():
            parameter += std * torch.randn(parameter.shape, generator=draw)
    return defense


def recorded(case, *, box):
    """(inner attack of a case from its stored noise, its calls: value and slope at the start, then the images).

    Args:
        box: the start is clipped to [0, 1].
    """
    tensors, notes = case
    sizes, calls = {key: notes["constants"][key] for key in ("eps", "step_size", "steps")}, []

    def attack(function, images, labels, *, indices=None, loss=cross_entropy_each):
        raised = lambda outputs: (loss or cross_entropy_each)(outputs, labels)  # noqa: E731
        start = images + sizes["eps"] * tensors["noise"]
        start = start.clamp(0, 1) if box else start
        calls.append(value_and_slope(function, raised, start))
        calls.append(ascend(function, raised, start, images, **sizes))
        return calls[-1]

    return attack, calls


def assert_start_matches(case, calls):
    (_, values, slope), *_ = calls
    assert_matches(case, "inner_objective_at_start", values.mean())
    assert_matches(case, "inner_pixel_gradient_at_start", slope / len(values))


def assert_gradients_match(case, defense, loss, prefix=""):
    """All stored gradients of the image tower equal those of the loss."""
    defense.zero_grad()
    loss.backward()
    found = dict(defense.image.named_parameters())
    wanted = [name for name in case[0] if name.startswith(f"{prefix}grad.visual.")]
    assert wanted
    for name in wanted:
        assert_matches(case, name, found[name.removeprefix(f"{prefix}grad.visual.")].grad)
