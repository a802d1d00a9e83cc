"""A codebook: nearest codes in float32, straight-through and soft assignment, moving averages, revival and health.

Source: van den Oord et al. 2017 (arXiv 1711.00937), straight-through and both code losses; its appendix for moving averages;
cheny02/DEFEAT-ICLR2026 trainers/defeat.py for the start of the codes. Revival and health are ours.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Assign = Callable[["Quantiser", Tensor], Tensor]
"""(quantiser, latent [B, N, d]) -> what the decoder sees [B, N, d]."""

LAPLACE = 1e-5


class Quantiser(nn.Module):
    """K codes of width d, learned by gradient or, with a decay, as moving averages of their latents.

    Args:
        codes: K, drawn from U(-1/K, 1/K) until `start` puts latents in their place.
        decay: of the moving averages; 0: the codes are learned by gradient, and no usage is kept.

    `codebook` [K, d] and `usage` [K], the moving count of positions per batch, are both saved. Averages move only in `update`:
    a forward pass never changes a code, so an attack meets the classifier that is scored.
    """

    def __init__(self, codes: int, width: int, *, decay: float = 0.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.decay = decay
        self.codebook = nn.Parameter((2 * torch.rand(codes, width, generator=generator) - 1) / codes)
        self.usage = nn.Parameter(torch.ones(codes)) if decay else None

    def scores(self, latent: Tensor) -> Tensor:
        """[B, N, K] squared distances minus the squared length of the latent, on which no choice depends.

        float32 at least: half precision rounds away the differences between codes and overflows for long latents.
        """
        with torch.autocast(latent.device.type, enabled=False):
            dtype = torch.promote_types(latent.dtype, torch.float32)
            z, codes = latent.to(dtype), self.codebook.detach().to(dtype)
            return codes.square().sum(1) - 2 * z @ codes.T

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        """[B, N] indices of the codes of smallest Euclidean distance to latent [B, N, d]."""
        return self.scores(latent).argmin(-1)

    def look_up(self, indices: Tensor) -> Tensor:
        """[B, N, d] codes; they carry a gradient unless they are moving averages."""
        return self.codebook.detach()[indices] if self.decay else self.codebook[indices]

    @torch.no_grad()
    def start(self, latents: Tensor, generator: torch.Generator) -> None:
        """Put a random choice of latents [S, d] in the place of the codes; some of them twice if there are fewer than K."""
        self.codebook.copy_(latents[_choice(len(latents), len(self.codebook), generator)])
        if self.usage is not None:
            self.usage.fill_(1.0)

    @torch.no_grad()
    def update(self, latent: Tensor, indices: Tensor) -> None:
        """Move counts and codes towards those of this batch.

        With count N and code e of K, of which the batch has n positions with sum s: N <- decay N + (1 - decay) n, then
        e <- e + (1 - decay) (s - n e) / N. That is the quotient of the moving sums, without keeping them; N is smoothed.
        """
        assert self.usage is not None
        flat, chosen = latent.detach().flatten(0, 1).to(self.codebook), indices.flatten()
        n = torch.zeros_like(self.usage).index_add_(0, chosen, torch.ones_like(flat[:, 0]))
        s = torch.zeros_like(self.codebook).index_add_(0, chosen, flat)
        self.usage.mul_(self.decay).add_(n, alpha=1 - self.decay)
        total = self.usage.sum()
        smooth = (self.usage + LAPLACE) / (total + len(self.usage) * LAPLACE) * total
        self.codebook.add_((1 - self.decay) * (s - n[:, None] * self.codebook) / smooth[:, None])

    @torch.no_grad()
    def revive(self, latent: Tensor, below: float, generator: torch.Generator) -> int:
        """Replace codes whose count fell below this by random latents of the batch with the count of a new code; returns how
        many."""
        assert self.usage is not None
        dead = (self.usage < below).nonzero().flatten()
        flat = latent.detach().flatten(0, 1).to(self.codebook)
        self.codebook[dead] = flat[_choice(len(flat), len(dead), generator)]
        self.usage[dead] = 1.0
        return len(dead)

    @torch.no_grad()
    def health(self, latent: Tensor, indices: Tensor) -> dict[str, float]:
        """Diagnostics of one batch: how many codes are used, and how far the latents are from them.

        code_perplexity: exp of the entropy of the codes' shares, 1 .. K. dead_codes: share of codes no position chose.
        quantisation_error: |z - z_q| / |z|. code_alarm: 1 where the error is at least 0.5, or the perplexity no more than a
        tenth of K (of the positions where these are fewer); its mean over an epoch is the share of steps.
        """
        share = torch.bincount(indices.flatten(), minlength=len(self.codebook)).to(latent) / indices.numel()
        perplexity = float(torch.special.entr(share).sum().exp())
        error = float((latent - self.codebook[indices]).norm() / latent.norm().clamp_min(1e-12))
        healthy = error < 0.5 and perplexity > 0.1 * min(len(self.codebook), indices.numel())
        dead = float((share == 0).to(latent).mean())
        return {
            "code_perplexity": perplexity, "dead_codes": dead, "quantisation_error": error, "code_alarm": float(not healthy)
        }  # fmt: skip


def _choice(available: int, wanted: int, generator: torch.Generator) -> Tensor:
    """`wanted` of the rows at random; no row is drawn twice before each was drawn once."""
    rounds = -(-wanted // available)
    return torch.cat([torch.randperm(available, generator=generator) for _ in range(rounds)] or [torch.empty(0)])[:wanted].long()


def straight_through(quantiser: Quantiser, latent: Tensor) -> Tensor:
    """The value of the nearest code, exactly, with the gradient of the latent."""
    quantised = quantiser.look_up(quantiser.nearest(latent)).detach().to(latent)
    return quantised + (latent - latent.detach())


def soft_assignment(temperature: float) -> Assign:
    """The value of the nearest code with the gradient of softmax(-distance / tau) over all codes (BPDA, arXiv 1802.00420).

    Args:
        temperature: tau over the median of an image's squared distances to its nearest codes.
    """

    def assign(quantiser: Quantiser, latent: Tensor) -> Tensor:
        scores = quantiser.scores(latent)
        length = latent.detach().to(scores).square().sum(-1)
        gaps = (scores.detach().amin(-1) + length).clamp_min(1e-12)
        tau = temperature * gaps.flatten(1).median(1).values[:, None, None]
        soft = (-scores / tau).softmax(-1) @ quantiser.codebook.detach().to(scores)
        hard = quantiser.codebook.detach()[scores.detach().argmin(-1)]
        return (hard + (soft - soft.detach())).to(latent)

    return assign


def unquantised(quantiser: Quantiser, latent: Tensor) -> Tensor:
    """The latent itself, as if there were a code for every value."""
    return latent
