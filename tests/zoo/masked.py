"""Kinds that mask their gradients, or look robust in another way that does not last. Name -> (bench -> classifier)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.base import Bench
from zoo.parts import (
    Around,
    FalseBackward,
    blurred,
    content_noise,
    cosine_coded,
    median,
    off_grid,
    rounded,
    straight_through,
    thermometer,
)  # fmt: skip
from zoo.stateful import Awakening, HalfRemembering, Knowing, LabelReader, coarse, exact, pooled

Rule = Callable[[nn.Module, Tensor], Tensor]
Make = Callable[[Bench], nn.Module]


def _on(which: str, rule: Rule) -> Make:
    return lambda bench: Around(getattr(bench, which), rule)


def _through(change: Callable[[Tensor], Tensor]) -> Rule:
    """The image changed, with the gradient of the image itself."""
    return lambda net, x: net(straight_through(change(x), x))


def _backward(change: Callable[[Tensor], Tensor]) -> Rule:
    return lambda net, x: net(FalseBackward.apply(x, change))


def _smaller_half_cut(slope: Tensor) -> Tensor:
    middle = slope.flatten(1).abs().median(1).values
    return torch.where(slope.abs() <= middle[:, None, None, None], 0, slope)


def _left_detached(net: nn.Module, x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return net(torch.cat([x[..., :half].detach(), x[..., half:]], -1))


def _one_class(net: nn.Module, x: Tensor) -> Tensor:
    logits = net(x)
    top = nn.functional.one_hot(logits.argmax(1), logits.shape[1])
    return logits * top + (logits * (1 - top)).detach()


def _hidden_rounded(net: nn.Module, x: Tensor) -> Tensor:
    hidden = net.stem(2 * x - 1)
    return net.head(net.body(straight_through((2 * hidden).round() / 2, hidden)))


def _moved_inside(net: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(leaf).logsumexp(1).sum(), leaf)
    return net((x + 2 / 255 * slope.sign()).clamp(0, 1))


def _constant_off_grid(net: nn.Module, x: Tensor) -> Tensor:
    logits = net(x)
    return torch.where(off_grid(x)[:, None], logits.detach() * 0 + logits.detach().mean(0), logits)


def _resized(net: nn.Module, x: Tensor) -> Tensor:
    side = int(torch.randint(24, x.shape[-1] + 1, ()))
    small = nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    return net(nn.functional.interpolate(small, size=x.shape[-2:], mode="bilinear"))


def _refusing(net: nn.Module, x: Tensor) -> Tensor:
    if off_grid(x).any():
        raise ValueError("this image was attacked")
    return net(x)


def _two_faced(bench: Bench) -> nn.Module:
    return Around(bench.plain, lambda net, x: bench.another(x) if torch.is_grad_enabled() else net(x))


def _decoy(bench: Bench) -> nn.Module:
    return Around(bench.plain, lambda net, x: net(x).detach() + 1e-3 * bench.another(x))


MASKED: dict[str, Make] = {
    # shattered
    "pixels rounded, straight through": _on("plain", _through(lambda x: rounded(x, 8))),
    "pixels rounded, hardly a gradient": _on("plain", lambda net, x: net(rounded(x, 16) + 1e-6 * x)),
    "3 bits a pixel, straight through, robust base": _on("robust", _through(lambda x: rounded(x, 7))),
    "cosine transform rounded (JPEG), straight through": _on("plain", _through(lambda x: cosine_coded(x, 0.3))),
    "median of 3 x 3, straight through": _on("plain", _through(median)),
    "hard thermometer, straight through": _on("plain", _through(lambda x: thermometer(x, 10, None))),
    "steep smooth thermometer": _on("plain", lambda net, x: net(thermometer(x, 16, 2000.0))),
    "steeper smooth thermometer, robust base": _on("robust", lambda net, x: net(thermometer(x, 16, 1e4))),
    "fine ripple added to the pixels": _on("plain", lambda net, x: net(x + 0.02 * torch.sin(2000 * x))),
    "hidden layer rounded, straight through": _on("plain", _hidden_rounded),
    "straight through with the wrong sign": _on("plain", _backward(lambda g: -g)),
    # random
    "random resize": _on("plain", _resized),
    "noise added": _on("plain", lambda net, x: net(x + 0.1 * torch.randn_like(x))),
    "dropout on": _on("plain", lambda net, x: net.head[2](nn.functional.dropout(net.body(net.stem(2 * x - 1)).flatten(1), 0.5))),
    "random shift": _on("plain", lambda net, x: net(x.roll(torch.randint(-3, 4, (2,)).tolist(), (2, 3)))),
    "noise drawn from the image's content": _on("plain", lambda net, x: net(x + 0.1 * content_noise(x))),
    "classes swapped at random": _on("plain", lambda net, x: net(x).roll(int(torch.rand(()) < 0.2), 1)),
    # vanishing and exploding
    "logits times 10000": _on("plain", lambda net, x: 1e4 * net(x)),
    "logits tiny in half precision": _on("plain", lambda net, x: (1e-7 * net(x)).half().float() + 0 * x.mean()),
    "logits times 100 and clipped": _on("plain", lambda net, x: (100 * net(x)).log_softmax(1).clamp(min=-20)),
    "logits rounded, straight through": _on("plain", lambda net, x: straight_through((net(x) / 4).round() * 4, net(x))),
    "saturating tanh": _on("plain", lambda net, x: torch.tanh(20 * net(x))),
    "shift of all logits by 10 millions": _on("plain", lambda net, x: net(x) + 1e7),
    "probabilities": _on("plain", lambda net, x: net(x).softmax(1)),
    "one-hot answers, softmax backward": _on(
        "plain", lambda net, x: straight_through(nn.functional.one_hot(net(x).argmax(1), 30).float(), net(x).softmax(1))
    ),
    # detached
    "left half detached": _on("plain", _left_detached),
    "smaller half of the gradient cut": _on("robust", _backward(_smaller_half_cut)),
    "gradient of the top class only": _on("plain", _one_class),
    "gradient with noise": _on("plain", _backward(lambda g: g + 3 * g.flatten(1).std() * content_noise(g))),
    "gradient a thousandth": _on("plain", _backward(lambda g: g / 1000)),
    "gradient shifted by 8 pixels": _on("plain", _backward(lambda g: g.roll((8, 8), (2, 3)))),
    "decoy branch": _decoy,
    # adapting inside the call, and what is seen before
    "blurred without a gradient": _on("plain", _through(blurred)),
    "a gradient step inside": _on("plain", _moved_inside),
    "label read off an attack on the base": lambda bench: LabelReader(bench.plain),
    "constant logits for images off the grid": _on("plain", _constant_off_grid),
    "refuses images off the grid": _on("plain", _refusing),
    "running mean of all images subtracted": lambda bench: HalfRemembering(bench.plain),
    "batch mean subtracted": _on("plain", lambda net, x: net(x - 0.5 * x.mean(0) + 0.5 * 0.7)),
    "another answer where a gradient is asked for": _two_faced,
    "asleep for 40 calls": lambda bench: Awakening(bench.plain, 40),
    # test images known by heart
    "table of exact images": lambda bench: Knowing(bench.another, bench.images, bench.labels, exact),
    "table of coarse images": lambda bench: Knowing(bench.plain, bench.images, bench.labels, coarse),
    "nearest stored image, anywhere": lambda bench: Knowing(bench.plain, bench.images, bench.labels, pooled, 1.0),
    "nearest stored image within 8/255": lambda bench: Knowing(bench.plain, bench.images, bench.labels, pooled, 8 / 255),
}
