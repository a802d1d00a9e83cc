"""APGD against closed forms, its schedule, and the fall-backs for few classes."""

import pytest
import torch
from toys import convnet, linear, pictures, predicted

from ironclip.attacks import APGD, CW, PGD
from ironclip.attacks._climb import checkpoints, climb
from ironclip.attacks._goal import ranked_targets
from ironclip.attacks.apgd import start
from ironclip.core.errors import DataError, UsageError
from ironclip.core.losses import cross_entropy_each, dlr_each, margin_each, targeted_dlr_each


def scene(count=20, classes=5, seed=0, dtype=torch.float32):
    model, images = convnet(classes, seed=seed, dtype=dtype), pictures(count, dtype=dtype)
    return model, images, predicted(model, images)


def ce(model, images, labels):
    with torch.no_grad():
        return cross_entropy_each(model(images), labels)


def right(model, images, labels):
    return predicted(model, images) == labels


def test_checkpoints_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [11, 21, 30, 38, 45]
    assert checkpoints(10) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]
    assert checkpoints(0) == []


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_apgd_reaches_the_optimum_of_a_linear_model_as_pgd_does(loss):
    model, images = linear(2, dtype=torch.float64), pictures(dtype=torch.float64)
    labels = predicted(model, images)
    weight = model[1].weight.detach()
    optimum = (images + 0.1 * (weight[1 - labels] - weight[labels]).sign().view_as(images)).clamp(0, 1)
    torch.testing.assert_close(APGD(0.1, steps=5, loss=loss)(model, images, labels), optimum)
    torch.testing.assert_close(PGD(0.1, steps=10, loss=loss)(model, images, labels), optimum)


def test_the_start_lies_on_the_sphere_and_is_the_images_own():
    images = pictures() * 0.2 + 0.4
    for norm, order in (("linf", torch.inf), ("l2", 2)):
        points = start(images, 0.1, norm, None, 3, torch.arange(12), 0)
        lengths = torch.linalg.vector_norm((points - images).flatten(1), order, dim=1)
        torch.testing.assert_close(lengths, torch.full((12,), 0.1))
        assert start(images[5:7], 0.1, norm, None, 3, torch.arange(5, 7), 0).equal(points[5:7])
        assert not start(images, 0.1, norm, None, 3, torch.arange(12), 1).equal(points)


def test_the_step_is_halved_where_the_loss_no_longer_rises():
    """On a line with its top at 0.55 the first step of 2 eps overshoots; halved steps come close to the top."""
    images = torch.full((1, 1), 0.5, dtype=torch.float64)
    seen = []
    climb(
        lambda x: x, lambda x, rows: -(x[:, 0] - 0.55).abs(), images - 0.3, images, eps=0.3, steps=40, kind="linf",
        observe=lambda rows, points, outputs, values: seen.append(points.item()),
    )  # fmt: skip
    assert abs(seen[1] - 0.55) > 0.1
    assert min(abs(point - 0.55) for point in seen) < 1e-3


def test_targets_never_equal_the_label_and_follow_the_clean_logits():
    model, images, labels = scene(40)
    labels[::5] = (labels[::5] + 2) % 5
    with torch.no_grad():
        logits = model(images)
    for count in (1, 3, 9):
        wanted = ranked_targets(logits, labels, count)
        assert wanted.shape == (min(count, 4), 40)
        assert (wanted != labels).all()
        values = logits.gather(1, wanted.T)
        assert (values[:, 1:] <= values[:, :-1]).all()
    assert (ranked_targets(logits, labels, 9).sort(0).values.diff(dim=0) > 0).all()


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_targeted_dlr_written_out(classes):
    logits = torch.randn(7, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, targets = torch.zeros(7, dtype=torch.long), torch.full((7,), classes - 1)
    for row, value in enumerate(targeted_dlr_each(logits, labels, targets).tolist()):
        z = logits[row].tolist()
        top = sorted(z, reverse=True)
        below = 1.0 if classes == 2 else top[0] - (top[2] if classes == 3 else (top[2] + top[3]) / 2)
        assert value == pytest.approx((z[classes - 1] - z[0]) / below)
    scaled = targeted_dlr_each(logits * 10 + 3, labels, targets)
    if classes > 2:
        torch.testing.assert_close(scaled, targeted_dlr_each(logits, labels, targets))


def test_dlr_falls_back_to_the_margin_for_two_classes():
    model, images, labels = scene(classes=2)
    margin = APGD(0.05, steps=10, loss="margin")(model, images, labels)
    assert APGD(0.05, steps=10, loss="dlr")(model, images, labels).equal(margin)
    with pytest.raises(UsageError, match="at least 3 classes"):
        dlr_each(model(images), labels)


def test_restarts_and_targets_never_help_the_defender():
    model, images, labels = scene(40)
    for options in ({}, {"loss": "dlr", "targets": 9}, {"loss": "dlr"}):
        robust = [
            right(model, APGD(0.02, steps=5, restarts=count, **options)(model, images, labels), labels) for count in (1, 2, 4)
        ]
        assert (robust[1] <= robust[0]).all()
        assert (robust[2] <= robust[1]).all()
    values = [ce(model, APGD(0.02, steps=5, restarts=count)(model, images, labels), labels) for count in (1, 3)]
    one, all_of_them = (APGD(0.02, steps=5, loss="dlr", targets=count)(model, images, labels) for count in (1, 9))
    assert (right(model, all_of_them, labels) <= right(model, one, labels)).all()
    assert right(model, one, labels).sum() > 0
    fooled = ~right(model, APGD(0.02, steps=5)(model, images, labels), labels)
    assert (values[1] >= values[0] - 1e-6)[fooled].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_hundred_steps_break_no_fewer_images_than_pgd(norm):
    eps = {"linf": 0.02, "l2": 0.1}[norm]
    for seed in range(2):
        model, images, labels = scene(40, seed=seed)
        ours = right(model, APGD(eps, norm=norm, mode="compact")(model, images, labels), labels)
        theirs = right(model, PGD(eps, norm=norm, steps=100, mode="compact")(model, images, labels), labels)
        assert ours.sum() <= theirs.sum() + 1
        assert 0 < ours.sum() < 40


def test_compaction_shows_the_model_only_rows_of_images_that_stand():
    model, images, labels = scene(30)
    labels[:5] = (labels[:5] + 1) % 5
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return model(x)

    APGD(0.05, steps=10, loss="dlr", targets=9, mode="compact")(watched, images, labels)
    assert sizes[0] == 30
    assert max(sizes) <= 30
    sizes.clear()
    APGD(0.05, steps=10, mode="compact")(watched, images, labels)
    assert sizes[1] == 25
    assert sizes[1:] == sorted(sizes[1:], reverse=True)


def test_gradients_of_a_random_function_are_averaged():
    model, images, labels = scene()
    calls = []

    def noisy(x):
        calls.append(len(x))
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(len(calls)))
        return model(x + 0.05 * drawn)

    APGD(0.05, steps=3, eot=4)(noisy, images, labels)
    assert len(calls) == 1 + 4 * 4
    assert APGD(0.05, steps=3, eot=2)(model, images, labels).equal(APGD(0.05, steps=3)(model, images, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": -1}, "targets must be a whole number of at least 0; got -1"),
        ({"targets": 3, "loss": "kl"}, "targets need loss"),
        ({"loss": "kl", "mode": "compact"}, "drops misclassified images"),
        ({"rho": 2}, "rho must be a number of at least 0 and at most 1; got 2"),
        ({"eot": 0}, "eot must be a whole number of at least 1; got 0"),
        ({"first_loss": "none"}, "first_loss must be one of start, zero; got 'none'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        APGD(0.1, **options)


def test_bad_noise():
    model, images, labels = scene()
    with pytest.raises(DataError, match=r"noise must lie in \[-1, 1\]"):
        APGD(0.1)(model, images, labels, noise=images[:2])


def test_cw_is_pgd_on_the_margin():
    model, images, labels = scene()
    assert CW(0.05, steps=7)(model, images, labels).equal(PGD(0.05, steps=7, loss="margin")(model, images, labels))
    assert CW(0.05, steps=7, hinge=50, keep="last")(model, images, labels).equal(
        PGD(0.05, steps=7, loss="margin", keep="last")(model, images, labels)
    )


def test_a_hinge_of_zero_stops_where_the_image_is_wrong():
    model, images, labels = scene(40)
    apt = CW(0.1, steps=30, start="zero", keep="last", hinge=0)(model, images, labels)
    free = CW(0.1, steps=30, start="zero", keep="last")(model, images, labels)
    with torch.no_grad():
        margins, wide = margin_each(model(apt), labels), margin_each(model(free), labels)
    broken = margins > 0
    assert broken.equal(wide > 0)
    assert broken.sum() > 20
    assert (margins <= wide + 1e-6)[broken].all()
    assert margins[broken].mean() < wide[broken].mean() / 2
    with pytest.raises(UsageError, match="hinge must be a number of at least 0; got -1"):
        CW(0.1, hinge=-1)
    with pytest.raises(UsageError, match='needs mode="full"'):
        CW(0.1, hinge=0, mode="compact")


def by_hand(loss, start, image, eps, steps, kind, first_loss):
    """Algorithm 1 of arXiv 2003.01690 for one image, line by line; the points looked at."""

    def slope(x):
        leaf = x.clone().requires_grad_()
        value = loss(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0]

    def onto(x):
        if kind == "linf":
            return torch.minimum(torch.maximum(x, image - eps), image + eps).clamp(0, 1)
        return (image + (x - image) * min(1, eps / max((x - image).norm().item(), 1e-30))).clamp(0, 1)

    def up(gradient):
        return gradient.sign() if kind == "linf" else gradient / gradient.norm()

    value, gradient = slope(start)
    before, x, seen, step = start, start, [start], 2 * eps
    best, best_value, best_gradient = start, value, gradient
    last, rises, window_start, best_then, was_halved = (value if first_loss == "start" else 0.0), 0, 0, value, True
    for done in range(1, steps + 1):
        z = onto(x + step * up(gradient))
        if done > 1:
            z = onto(x + 0.75 * (z - x) + 0.25 * (x - before))
        before, x = x, z
        seen.append(x)
        value, gradient = slope(x)
        rises, last = rises + (value > last), value
        if value > best_value:
            best, best_value, best_gradient = x, value, gradient
        if done in checkpoints(steps):
            first = rises <= 0.75 * (done - window_start)
            second = not was_halved and best_then >= best_value
            if first or second:
                step, x, gradient = step / 2, best, best_gradient
            was_halved, best_then, rises, window_start = first or second, best_value, 0, done
    return seen


@pytest.mark.parametrize("first_loss", ["start", "zero"])
@pytest.mark.parametrize("kind", ["linf", "l2"])
def test_every_point_is_that_of_the_algorithm_written_out(kind, first_loss):
    """Steep waves over a slow rise: some windows rise by most steps and some by few, so steps are halved for both reasons."""
    generator = torch.Generator().manual_seed(3)
    ways = torch.randn(4, 12, generator=generator, dtype=torch.float64)
    images = 0.3 + 0.4 * torch.rand(6, 12, generator=generator, dtype=torch.float64)
    eps = {"linf": 0.1, "l2": 0.3}[kind]
    starts = images + eps / 12**0.5 * (2 * torch.rand(6, 12, generator=generator, dtype=torch.float64) - 1)

    def values(x, rows):
        heights = x @ ways.T
        return (
            heights.mul(torch.tensor([1.0, 5.0, 15.0, 0.5], dtype=torch.float64)).sin().sum(1) + 0.5 * (rows + 1) * heights[:, 0]
        )

    seen: list[list[torch.Tensor]] = [[] for _ in images]

    def observe(rows, points, outputs, losses):
        for row, point in zip(rows.tolist(), points):
            seen[row].append(point)

    climb(lambda x: x, values, starts, images, eps=eps, steps=40, kind=kind, observe=observe, first_loss=first_loss)
    for row, image in enumerate(images):
        one = lambda x, row=row: values(x[None], torch.tensor([row]))[0]  # noqa: E731
        expected = by_hand(one, starts[row], image, eps, 40, kind, first_loss)
        torch.testing.assert_close(torch.stack(seen[row]), torch.stack(expected))


def test_the_step_is_also_halved_where_most_steps_rise_but_none_beats_the_best_and_not_twice_in_a_row():
    """Values by script: rising to 10; a fall to 0 and slow rises below 10; the same again, right after a halving."""
    heights = [*range(9), 10, 0, *range(1, 40)]
    heights[17:] = [0.1 * k for k in range(len(heights[17:]))]
    image = torch.full((12,), 0.5, dtype=torch.float64)
    ways = torch.randn(len(heights), 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def scripted():
        left = iter(zip(heights, ways, strict=True))

        def value(x):
            height, way = next(left)
            return height + ((x - x.detach()) * way).sum(-1)

        return value

    seen: list[torch.Tensor] = []
    ours, theirs = scripted(), scripted()
    climb(
        lambda x: x, lambda x, rows: ours(x), image[None], image[None], eps=0.4, steps=40, kind="l2",
        observe=lambda rows, points, outputs, values: seen.append(points[0]),
    )  # fmt: skip
    torch.testing.assert_close(torch.stack(seen), torch.stack(by_hand(theirs, image, image, 0.4, 40, "l2", "start")))
