"""Classifiers that hide nothing, some of an unusual build. Name -> (bench -> classifier)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.base import SIDE, Bench, trained
from zoo.parts import Around

Make = Callable[[Bench], nn.Module]


def _bfloat16(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net(x).float()


def _float16(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.float16):
        return net(x).float()


def seeded(make: Make) -> Make:
    """The same network in every process: its start is drawn globally."""

    def again(bench: Bench) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make(bench)

    return again


@seeded
def _mlp(bench: Bench) -> nn.Module:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 128), nn.LayerNorm(128), nn.Tanh(), nn.Linear(128, 30))
    return trained(layers, *bench.train, epochs=4, eps=0)


@seeded
def _relu_pooled(bench: Bench) -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(48 * (SIDE // 8) ** 2, 30),
    )  # fmt: skip
    return trained(layers, *bench.train, epochs=4, eps=0)


HONEST: dict[str, Make] = {
    "plain, with batch norm and dropout in eval mode": lambda bench: bench.plain,
    "trained against PGD": lambda bench: bench.robust,
    "bfloat16 inside": lambda bench: Around(bench.plain, _bfloat16),
    "bfloat16 inside, trained against PGD": lambda bench: Around(bench.robust, _bfloat16),
    "float16 inside": lambda bench: Around(bench.plain, _float16),
    "double precision inside": lambda bench: Around(bench.plain, lambda net, x: _double(net, x)),
    "logits a thousandth, for real": lambda bench: Around(bench.plain, lambda net, x: net(x) / 1000),
    "logits times 4, for real": lambda bench: Around(bench.plain, lambda net, x: 4 * net(x)),
    "tanh at the end": lambda bench: Around(bench.plain, lambda net, x: 20 * torch.tanh(net(x) / 20)),
    "log-probabilities": lambda bench: Around(bench.plain, lambda net, x: net(x).log_softmax(1)),
    "blur with its true gradient": lambda bench: Around(bench.plain, lambda net, x: net(nn.functional.avg_pool2d(x, 3, 1, 1))),
    "perceptron with layer norm": _mlp,
    "rectifiers and max pooling": _relu_pooled,
}


def _double(net: nn.Module, x: Tensor) -> Tensor:
    weights = {name: value.double() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    return torch.func.functional_call(net, weights, (x.double(),)).float()
