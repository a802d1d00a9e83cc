"""Image tower of the ResNet CLIPs (RN50, RN101, RN50x4 ...): convolutions, then one attention pool.

There is no token sequence, so there are no edit points. The attention pool is the tower's only attention layer, number 0.
"""

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from ironclip.backbones.towers import Tower
from ironclip.core.errors import UnsupportedEdit
from ironclip.core.types import Edit, Trace


class ResNetTower(Tower):
    """An open_clip ModifiedResNet behind the interface of the image towers."""

    kind = "resnet"
    idle = ("attnpool.k_proj.bias",)  # adds one number to all logits of a query, which the softmax takes away

    def __init__(self, visual: ModifiedResNet) -> None:
        super().__init__()
        self.net = visual
        self.layers = 1
        self.width = visual.attnpool.v_proj.in_features
        self.resolution = _side(visual.image_size)
        self.grid = self.resolution // 32
        self.tokens = 0

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Convolution and linear weights, in order."""
        return tuple(name for name, value in self.net.named_parameters() if name.endswith(".weight") and value.ndim > 1)

    def run(self, images: Tensor, edits: Sequence[Edit], trace: Trace | None) -> Tensor:
        """[B, E] features, not normalised.

        The trace gets `inputs[0]` [B, G*G, D], the last feature map on the autograd path (what Grad-CAM differentiates);
        `weights[0]` [B, H, 1+G*G, 1+G*G] of the attention pool, whose token 0 is the mean of the map; and `projected`
        [B, G*G, E], the pool's value and output projection of every position alone (the dense readout of MaskCLIP,
        arXiv 2112.01071, with the pool's positions kept, because the features are averages of exactly these values).

        Raises:
            UnsupportedEdit: any edit.
        """
        if edits:
            raise UnsupportedEdit("RN50 has no token sequence, so tokens cannot be edited; use a ViT backbone")
        if trace is None:
            return self.net(images)
        net = self.net
        maps = net.layer4(net.layer3(net.layer2(net.layer1(net.stem(images)))))
        tokens = maps.flatten(2).transpose(1, 2)
        if trace.tokens and trace.wants(0):
            trace.inputs[0] = tokens
        if not (trace.attention and trace.wants(0)) and not trace.grid:
            return net.attnpool(tokens.transpose(1, 2).reshape(maps.shape))
        return self._pool(tokens, trace)

    def _pool(self, tokens: Tensor, trace: Trace) -> Tensor:
        pool = self.net.attnpool
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + pool.positional_embedding
        heads = lambda projected: projected.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # noqa: E731
        query, key, value = heads(pool.q_proj(tokens)), heads(pool.k_proj(tokens)), pool.v_proj(tokens)
        attention = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        if trace.attention and trace.wants(0):
            trace.weights[0] = attention
        if trace.grid:
            trace.projected = pool.c_proj(value[:, 1:])
        mixed = (attention[:, :, :1] @ heads(value)).transpose(1, 2).flatten(2)
        return pool.c_proj(mixed[:, 0])


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]
