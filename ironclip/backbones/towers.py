"""The interface of all image towers, and helpers that they share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call

from ironclip.core.errors import UnsupportedEdit, UsageError, unknown
from ironclip.core.types import Edit, Trace


class Tower(nn.Module, ABC):
    """An image tower with edit points. `run` is the pass; calling the tower adds the swapped weights.

    `tokens` counts the sequence that enters the first block (class token, registers, grid); 0: there is no sequence to edit.
    `idle` names parameters that never change the features, by the start of their names; nothing can be learned in them.
    """

    kind: Literal["vit", "timm", "resnet"]
    layers: int
    width: int
    grid: int
    resolution: int
    tokens: int
    class_token: bool = False
    idle: tuple[str, ...] = ()
    net: Any

    @abstractmethod
    def run(self, images: Tensor, edits: Sequence[Edit], trace: Trace | None) -> Tensor:
        """[B, E] features of normalised images [B, 3, H, W]."""

    def forward(
        self,
        images: Tensor,
        *,
        edits: Sequence[Edit] = (),
        weights: Mapping[str, Tensor] | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        return with_weights(self, weights, images, edits, trace)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Matrices inside the layers, in order; `weights=` accepts every parameter of `net`."""
        return matrices(self.net)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Every parameter that can change the features, in order: what a method may learn. `weights=` accepts the idle ones, too.

        A matrix or bias that holds several parts counts as one, so a ViT's `in_proj_bias` is there although its middle third, the
        bias of the keys, is idle.
        """
        return tuple(name for name, _ in self.net.named_parameters() if not name.startswith(self.idle))

    def weight(self, name: str) -> Tensor:
        return named_weight(self.net, name)


class _Run(nn.Module):
    """Lets functional_call reach `tower.run`."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.net = tower.net
        self._run: Callable[..., Tensor] = tower.run

    def forward(self, *args: Any) -> Tensor:
        return self._run(*args)


def with_weights(tower: Any, weights: Mapping[str, Tensor] | None, *args: Any) -> Tensor:
    """tower.run(*args) with some parameters of tower.net replaced by these tensors, which gradients then reach."""
    if not weights:
        return tower.run(*args)
    known = dict(tower.net.named_parameters())
    for name, tensor in weights.items():
        if name not in known:
            raise unknown("weight", name, known)
        if tensor.shape != known[name].shape:
            raise UsageError(f"weight {name!r} has shape {tuple(known[name].shape)}; got {tuple(tensor.shape)}")
    return functional_call(_Run(tower), {f"net.{name}": tensor for name, tensor in weights.items()}, args)


def matrices(net: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, parameter in net.named_parameters() if parameter.ndim >= 2 and "blocks." in name)


def named_weight(net: nn.Module, name: str) -> Tensor:
    parameters = dict(net.named_parameters())
    if name not in parameters:
        raise unknown("weight", name, parameters)
    return parameters[name]


def apply_edits(edits: Sequence[Edit], layer: int, tokens: Tensor) -> Tensor:
    for edit in edits:
        tokens = edit(layer, tokens)
        if tokens.ndim != 3:
            raise UnsupportedEdit(f"an edit returns tokens [B, N, D]; at layer {layer} it returned shape {tuple(tokens.shape)}")
    return tokens


def leaves_output(edits: Sequence[Edit]) -> bool:
    """Whether no edit changes the pooled token at layer L; edits say so with `changes_output = False`."""
    return all(getattr(edit, "changes_output", True) is False for edit in edits)
