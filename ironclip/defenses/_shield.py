"""A small convolutional VQ-VAE over a square grid of features, and a pooling with one weight per position.

Source: cheny02/DEFEAT-ICLR2026 trainers/defeat.py (VQVAE_NET, LinearProjection); sizes there are those of ViT-B/32 alone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ironclip.defenses._quantiser import Assign, Quantiser, straight_through

Norm = Literal["none", "layernorm", "l2"]


@dataclass(frozen=True)
class Reconstruction:
    """What a pass through a shield made: grid [B, N, D] as it came, latent [B, N, d], and the grid rebuilt [B, N, D]."""

    grid: Tensor
    latent: Tensor
    rebuilt: Tensor


class ResidualUnit(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Shield(nn.Module):
    """Encoder, codebook and decoder over a grid of G x G features, all of stride 1.

    Args:
        channels: D of the features.
        width: d of the latents and codes.
        codes: K.
        decay: of the codebook's moving averages; 0: learned by gradient.
        pre_norm: norm of every position in front of the encoder, without parameters: "none", "layernorm" or "l2".
    """

    def __init__(
        self, channels: int, width: int, codes: int, *, decay: float, pre_norm: Norm, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        wide: dict[str, Any] = {"kernel_size": 3, "padding": 1}
        with torch.random.fork_rng(devices=[]):  # layers draw a start from the global generator; it is replaced below
            self.encoder = nn.Sequential(
                nn.Conv2d(channels, width, **wide), nn.ReLU(), nn.Conv2d(width, width, **wide), ResidualUnit(width)
            )
            self.decoder = nn.Sequential(
                nn.Conv2d(width, width, **wide), ResidualUnit(width), nn.ConvTranspose2d(width, channels, **wide)
            )
        self.quantiser = Quantiser(codes, width, decay=decay, generator=generator)
        for part in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                start_like_torch(part, generator)

    def encode(self, grid: Tensor) -> Tensor:
        """[B, N, d] latents of a grid [B, N, D] in row-major order."""
        if self.pre_norm == "layernorm":
            grid = F.layer_norm(grid, grid.shape[-1:])
        elif self.pre_norm == "l2":
            grid = F.normalize(grid, dim=-1)
        return as_tokens(self.encoder(as_map(grid)))

    def forward(self, grid: Tensor, assign: Assign = straight_through) -> Reconstruction:
        """The grid rebuilt from codes, as `assign` hands them to the decoder."""
        latent = self.encode(grid)
        return Reconstruction(grid, latent, as_tokens(self.decoder(as_map(assign(self.quantiser, latent)))))


class PatchPool(nn.Module):
    """[B, D] features of a grid [B, N, D]: one learned weight per position and one bias for all of them [code]."""

    def __init__(self, positions: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        bound = positions**-0.5
        self.weight = nn.Parameter((2 * torch.rand(1, positions, generator=generator) - 1) * bound)
        self.bias = nn.Parameter((2 * torch.rand(1, generator=generator) - 1) * bound)

    def forward(self, grid: Tensor) -> Tensor:
        return F.linear(grid.transpose(1, 2), self.weight, self.bias).squeeze(-1)


class PixelShield(nn.Module):
    """images [B, 3, H, W] -> images rebuilt from codes of patches of 4 x 4 pixels: the ablation that leaves the tower alone."""

    SIDE = 4  # pixels; the published ablation does not say by how much it shrinks images

    def __init__(self, shield: Shield) -> None:
        super().__init__()
        self.shield = shield

    def grid(self, images: Tensor) -> Tensor:
        """[B, N, 48] patches."""
        return as_tokens(F.pixel_unshuffle(images, self.SIDE))

    def forward(self, images: Tensor, assign: Assign = straight_through) -> Tensor:
        return F.pixel_shuffle(as_map(self.shield(self.grid(images), assign).rebuilt), self.SIDE)


def as_map(grid: Tensor) -> Tensor:
    """[B, D, G, G] of a grid [B, G*G, D], rows first."""
    side = round(grid.shape[1] ** 0.5)
    return grid.transpose(1, 2).unflatten(2, (side, side))


def as_tokens(grid: Tensor) -> Tensor:
    """[B, G*G, D] of a map [B, D, G, G]."""
    return grid.flatten(2).transpose(1, 2)


def start_like_torch(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, generator: torch.Generator | None) -> None:
    """PyTorch's own start, U(+-1/sqrt(fan in)) for weight and bias, drawn from this generator."""
    bound = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0] ** -0.5
    with torch.no_grad():
        for values in (layer.weight, layer.bias):
            if values is not None:
                values.copy_((2 * torch.rand(values.shape, generator=generator) - 1) * bound)
