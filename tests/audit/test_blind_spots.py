"""What a check along the returned gradient, on the test images alone, cannot see; and what must raise no alarm."""

import masked
import torch
from masked import lab
from torch import nn
from zoo.parts import Around, FalseBackward, thermometer

from ironclip.audit import differences
from ironclip.audit.diagnose import CHECKS
from ironclip.audit.watching import Watch, precision_of

QUICK = {"steps": 10, "many": 24}


def around(rule):
    return Around(masked.Plain().eval(), rule)


def cut(slope):
    middle = slope.flatten(1).abs().median(1).values
    return torch.where(slope.abs() <= middle[:, None, None, None], 0, slope)


def autocast(net, images):
    with torch.autocast("cpu", torch.bfloat16):
        return net(images).float()


def test_a_gradient_that_lacks_a_part_is_found_by_random_directions():
    kinds = {
        "a half": lambda net, x: net(torch.cat([x[..., :2].detach(), x[..., 2:]], -1)),
        "a channel": lambda net, x: net(torch.cat([x[:, :1].detach(), x[:, 1:]], 1)),
        "the smaller half": lambda net, x: net(FalseBackward.apply(x, cut)),
    }
    for name, rule in kinds.items():
        verdict = CHECKS["D13"](lab(around(rule), **QUICK))
        assert verdict.level in ("fail", "warn"), (name, str(verdict))
        assert verdict.numbers["relative error at 0.1 eps, gradient"] < 0.03, name  # what the old check looked at


def test_rounding_is_forgiven_as_far_as_the_precision_explains_it():
    assert CHECKS["D13"](lab(around(autocast), **QUICK)).level in ("pass", "not applicable")

    def rounded(net, x):
        return net(x).detach().to(torch.float8_e4m3fn).float() + net(x) - net(x).detach()

    verdict = CHECKS["D13"](lab(around(rounded), **QUICK))
    assert verdict.level in ("fail", "warn"), "outputs rounded after a float32 model are no precision of the model"


def test_a_long_difference_is_compared_with_the_gradients_along_it():
    bends = lab(around(lambda net, x: (3 * net(x)).sin()), **QUICK)
    point, slope = differences.point_and_slope(bends, 0.5)
    errors = []
    for bent in (False, True):
        real, predicted = differences.changes(bends, point, slope, [slope.sign()], 0.5 * bends.pixel, bent=bent)
        errors.append(float((real - predicted).norm() / real.norm()))
    assert errors[1] < errors[0] / 5


def test_the_precision_is_that_of_the_matrix_products():
    images = torch.rand(2, 3, 4, 4)
    assert precision_of(masked.Plain().eval(), images) == torch.float32
    assert precision_of(around(autocast), images) == torch.bfloat16
    assert precision_of(lambda x: x.half().float(), images) == torch.float32
    assert precision_of(masked.Plain().double().eval(), images.double()) == torch.float64


def test_a_smooth_function_rougher_than_a_step_of_pgd_is_found():
    steep = lab(around(lambda net, x: net(thermometer(x, 16, 1e4))), **QUICK)
    assert CHECKS["D18"](steep).level == "fail"
    assert CHECKS["D18"](lab(masked.Plain(), **QUICK)).level == "pass"


class Knows(masked.Plain):
    """Raises the stored class for images near a stored one."""

    def __init__(self, images, labels, radius):
        super().__init__()
        self.stored, self.classes_of, self.radius = images.flatten(1), labels, radius

    def forward(self, images):
        least, place = torch.cdist(images.detach().flatten(1), self.stored, p=float("inf")).min(1)
        near = (least <= self.radius).float()[:, None]
        return self.net(images) + 100 * near * nn.functional.one_hot(self.classes_of[place], 5)


def test_a_classifier_that_knows_the_test_pictures_by_heart_is_found_by_their_copies():
    bench = lab(masked.Plain(), eps=0.1, **QUICK)
    known = lab(Knows(bench.images, bench.labels, 0.11), eps=0.1, **QUICK)
    assert known.white_box().all()
    assert CHECKS["D13"](known).level == "pass"
    verdict = CHECKS["D19"](known)
    assert verdict.level == "fail"
    assert "by heart" in verdict.text
    assert CHECKS["D19"](bench).level == "pass"


def test_an_answer_that_belongs_to_the_exact_bytes_is_found():
    bench = lab(masked.Plain(), **QUICK)
    bench.labels = (bench.labels + 1) % 5
    bench.classifier = bench.attacked = Knows(bench.images, bench.labels, 0.0).eval()
    verdict = CHECKS["D19"](bench)
    assert verdict.level == "fail"
    assert "exact bytes" in verdict.text


def test_another_answer_where_a_gradient_is_asked_for_is_found():
    other = masked.convnet(seed=9).eval()
    verdict = CHECKS["D3"](lab(around(lambda net, x: other(x) if torch.is_grad_enabled() else net(x)), **QUICK))
    assert verdict.level == "fail"


def test_memory_of_earlier_pictures_is_found_without_buffers():
    kept = {}

    def remembering(net, images):
        mean = kept["mean"] = 0.9 * kept.get("mean", images.mean(0)) + 0.1 * images.mean(0)
        return net(images - mean.detach() + 0.5)

    bench = lab(around(remembering), **QUICK)
    assert "warn" in {CHECKS[check](bench).level for check in ("D3", "D4")}
    seen = set()

    def tiring(net, images):
        seen.add(float(images.detach().flatten()[0]))
        return net(images + 0.2 * (len(seen) > 2))

    verdict = CHECKS["D4"](lab(around(tiring), **QUICK))
    assert verdict.level == "warn"
    assert "seen before" in verdict.text


def test_the_watch_sees_every_kind_of_backward_pass_and_patches_nothing():
    grad, backward = torch.autograd.grad, torch.autograd.backward
    weights = torch.rand(4, requires_grad=True)
    ways = (
        lambda: grad(weights.square().sum(), weights),
        lambda: (weights * weights).sum().backward(),
        lambda: torch.func.grad(lambda w: w.square().sum())(weights.detach()),
    )
    for way in ways:
        with Watch() as watch:
            assert (torch.autograd.grad, torch.autograd.backward) == (grad, backward)
            way()
        assert watch.backward
    with Watch() as watch:
        weights.square().sum()
    assert not watch.backward
