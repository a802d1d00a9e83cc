"""Masked kinds written after the checks were fixed, to test them: none of them had a part in any threshold."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.base import Bench
from zoo.parts import Around, FalseBackward, blurred, content_noise, content_seeds, rounded, straight_through
from zoo.stateful import Knowing

Make = Callable[[Bench], nn.Module]


def _plain(rule: Callable[[nn.Module, Tensor], Tensor]) -> Make:
    return lambda bench: Around(bench.plain, rule)


def _winners(net: nn.Module, x: Tensor) -> Tensor:
    """k winners take all: the largest tenth of the hidden units passes."""
    hidden = net.stem(2 * x - 1).flatten(1)
    least = hidden.topk(hidden.shape[1] // 10, 1).values[:, -1:]
    kept = torch.where(hidden >= least, hidden, 0)
    return net.head(net.body(kept.unflatten(1, net.stem(2 * x - 1).shape[1:])))


def _deflected(net: nn.Module, x: Tensor) -> Tensor:
    """A hundred pixels replaced by a neighbor; which ones follows from the image's content."""
    rows = [torch.randperm(x.shape[-1] ** 2, generator=torch.Generator().manual_seed(seed))[:100] for seed in content_seeds(x)]
    chosen = torch.zeros(len(x), x.shape[-1] ** 2, device=x.device).scatter(1, torch.stack(rows), 1.0)
    mask = chosen.reshape(len(x), 1, *x.shape[-2:])
    return net(x * (1 - mask) + x.roll(1, -1) * mask)


def _centre_detached(net: nn.Module, x: Tensor) -> Tensor:
    mask = torch.zeros_like(x)
    quarter = x.shape[-1] // 4
    mask[..., quarter:-quarter, quarter:-quarter] = 1
    return net(x * (1 - mask) + (x * mask).detach())


def _votes(net: nn.Module, x: Tensor) -> Tensor:
    """Share of 16 shifted views that vote for each class; the gradient is that of the mean logits, a little."""
    views = torch.stack([net(x.roll((i, j), (2, 3))) for i in range(-2, 2) for j in range(-2, 2)])
    votes = nn.functional.one_hot(views.argmax(-1), views.shape[-1]).float().sum(0)
    return straight_through(votes, views.mean(0))


def _late_detached(net: nn.Module, x: Tensor) -> Tensor:
    """Hidden layer: the gradient of every second channel is cut."""
    hidden = net.stem(2 * x - 1)
    keep = (torch.arange(hidden.shape[1]) % 2).reshape(1, -1, 1, 1)
    return net.head(net.body(hidden * keep + (hidden * (1 - keep)).detach()))


def _stairs(net: nn.Module, x: Tensor) -> Tensor:
    """Pixels on smooth stairs with 20 steps: flat almost everywhere, steep in between."""
    place = 20 * x
    return net((place.floor() + torch.sigmoid(60 * (place - place.floor() - 0.5))) / 20)


def _detector(net: nn.Module, x: Tensor) -> Tensor:
    """Where the image is rough, the answer of a blurred image, without its gradient."""
    rough = ((x - blurred(x)).abs().flatten(1).mean(1) > 0.02)[:, None]
    return torch.where(rough, straight_through(net(blurred(blurred(x))), net(x)), net(x))


HELDOUT: dict[str, Make] = {
    "k winners take all": _plain(_winners),
    "pixels deflected by content": _plain(_deflected),
    "center of the image detached": _plain(_centre_detached),
    "votes of shifted views": _plain(_votes),
    "half of the hidden gradient cut": _plain(_late_detached),
    "smooth stairs": _plain(_stairs),
    "blurred where rough": _plain(_detector),
    "gradient clipped to its sign": _plain(lambda net, x: net(FalseBackward.apply(x, torch.sign))),
    "gradient of one channel only": _plain(lambda net, x: net(torch.cat([x[:, :1], x[:, 1:].detach()], 1))),
    "temperature grows with confidence": _plain(lambda net, x: net(x) * net(x).detach().norm(dim=1, keepdim=True) ** 3),
    "logits sorted by a cubic root": _plain(lambda net, x: net(x).sign() * (net(x).abs() + 1e-12) ** 0.01),
    "noise from content, small": _plain(lambda net, x: net(x + 0.01 * content_noise(x))),
    "mean of 8 noisy draws": _plain(lambda net, x: torch.stack([net(x + 0.1 * torch.randn_like(x)) for _ in range(8)]).mean(0)),
    "averages with the previous image's logits": lambda bench: _Echo(bench.plain),
    "features of the test images known by heart": lambda bench: Knowing(
        bench.plain, bench.images, bench.labels, lambda x: bench.another.stem(2 * x - 1).mean((2, 3)).detach().double(), 0.05
    ),
    "colors to 5 bits before a robust network": lambda bench: Around(
        bench.robust, lambda net, x: net(straight_through(rounded(x, 31), x))
    ),
}


class _Echo(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.last = network, []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        earlier = self.last[-1] if self.last else logits.detach().mean(0)
        self.last[:] = [logits.detach().mean(0)]
        return logits + earlier
