"""R-TPT and A-TPT one image at a time, as their released codes work through it; the views are given.

Source of the counts: TomSheng21/R-TPT `rtpt.py` (4 V + 1 image passes, V of them for a result that is not used; text encoded five
times over 40 positions) and SEU-VIPGroup/A-TPT `atpt.py` (3 V + 1 image passes, and
for each view's relevance map one more with every attention map, one text pass and one backward pass).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain import PlainPrompts

POSITIONS = 40
SELECT, NEIGHBOURS, TEMPERATURE = 0.1, 20, 0.01


class PlainTuner(PlainPrompts):
    """A prompt learner over the first 40 positions, with one image's tuning and answer."""

    def __init__(self, model: Any, words: Tensor, classes: Sequence[str]) -> None:
        super().__init__(model, words, classes)
        self.start = words.detach().clone()
        self.gradient = torch.zeros_like(words)

    def text(self) -> Tensor:
        model, count = self.model, len(self.words)
        embeddings = self.embeddings[:, :POSITIONS]
        length = embeddings.shape[1]
        words = self.words.expand(len(embeddings), -1, -1)
        prompts = torch.cat([embeddings[:, :1], words, embeddings[:, 1 + count :]], dim=1)
        tokens = model.transformer(prompts + model.positional_embedding[:length], attn_mask=model.attn_mask[:length, :length])
        return F.normalize(model.ln_final(tokens)[torch.arange(len(tokens)), self.eot] @ model.text_projection, dim=-1)

    def tuned(self, views: Tensor, *, again: bool = True, context: Tensor | None = None) -> Tensor:
        """[K] logits of one image after a step on its views [V, 3, S, S].

        Args:
            again: features for the votes are encoded by themselves, the text with them (R-TPT); False: those of the tuning
                serve (A-TPT).
            context: answer with these words instead of those after the step. AdamW's first step is nearly a sign, so words
                whose slope is within rounding of zero go either way, in this code as in ours.
        """
        with torch.no_grad():
            self.words.copy_(self.start)
            self(views[:1])
            features = self.image(views) if again else None
            if again:
                self.text()
        optimizer = torch.optim.AdamW([self.words], lr=5e-3)
        with torch.no_grad():
            encoded = self.image(views)
        logits = self.model.logit_scale.exp() * encoded @ self.text().T
        entropies = -(logits.log_softmax(1) * logits.softmax(1)).sum(1)
        selected = entropies.argsort()[: max(1, int(SELECT * len(views)))]
        optimizer.zero_grad()
        entropies[selected].mean().backward()
        assert self.words.grad is not None
        self.gradient = self.words.grad.clone()
        optimizer.step()
        with torch.no_grad():
            if context is not None:
                self.words.copy_(context)
            self(views)  # of no use to the released code
            logits = self(views)
            features = encoded if features is None else features
            similarity = features @ features.T
            similarity.fill_diagonal_(-torch.inf)
            nearest = similarity.topk(min(NEIGHBOURS, len(views) - 1), dim=1).values.mean(1)
            return ((nearest / TEMPERATURE).softmax(0)[:, None] * logits).sum(0)

    def relevance(self, view: Tensor, clip: float = 0.99) -> Tensor:
        """[G, G] the released gradient rollout of one crop [1, 3, S, S], through a graph of the whole tower."""
        with torch.no_grad():
            text = self.text()
        visual = self.model.visual
        leaf = ((view - self.mean) / self.std).clone().requires_grad_()
        patches = visual.conv1(leaf).flatten(2).transpose(1, 2)
        start = visual.class_embedding.expand(1, 1, -1)
        tokens = visual.ln_pre(torch.cat([start, patches], dim=1) + visual.positional_embedding)
        inputs, attention = [], []
        for block in visual.transformer.resblocks:
            inputs.append(tokens)
            normed = block.ln_1(tokens)
            mixed, weights = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
            attention.append(weights.detach())
            tokens = tokens + mixed
            tokens = tokens + block.mlp(block.ln_2(tokens))
        features = F.normalize(visual.ln_post(tokens[:, 0]) @ visual.proj, dim=-1)
        score = (self.model.logit_scale.exp().detach() * features @ text.T).amax()
        slopes = torch.autograd.grad(score, inputs[-2:])
        hops = []
        for tokens, slope, weights in zip(inputs[-2:], slopes, attention[-2:], strict=True):
            products = (tokens * slope).sum(-1).relu().detach()
            products = products / (products.sum(-1, keepdim=True) + 1e-8)
            hop = torch.eye(products.shape[1]).to(products) + weights.mean(1)[0] * products
            hops.append(hop / (hop.sum(-1, keepdim=True) + 1e-8))
        average = (0.5 * hops[0] + hops[1]) / 1.5
        row = (hops[1] @ (average / (average.sum(-1, keepdim=True) + 1e-8)))[0, 1:]
        row = row.minimum(row.quantile(clip))
        row = (row - row.min()) / (row.max() - row.min() + 1e-8)
        side = int(len(row) ** 0.5)
        return row.view(side, side)

    def guided(self, crops: Tensor, mixes: Tensor, keep: Tensor) -> Tensor:
        """[V, 3, S, S] mixed views, one after another: p_high 0.2, p_low 0.8, weights 0.8 and 0.2."""
        done = []
        for crop, mix, own in zip(crops, mixes, keep, strict=True):
            grid = self.relevance(crop[None])
            pixels = F.interpolate(grid[None, None], size=crop.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
            high = pixels > pixels.flatten().quantile(0.8)
            low = (pixels <= pixels.flatten().quantile(0.8)) & ~high
            weight = torch.where(high, 0.8, torch.where(low, 0.2, own))
            done.append(weight * crop + (1 - weight) * mix)
        return torch.stack(done)
