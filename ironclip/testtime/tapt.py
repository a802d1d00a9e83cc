"""TAPT: per image, one step on the deep prompts towards certain predictions and towards the token statistics of source images.

Source: arXiv 2411.13136, xinwong/TAPT (`trainers/adv_vli.py`). Deviations: float32 instead of half precision with a gradient
scaler [code]; views are first ranked without gradients and only the selected ones run again, which gives the same gradient;
at least one view is selected [code: none below ten views]; the state is never carried to the next image. `prepare` has one set
of prompts, so the adversarial statistics are those of attacked source images and the clean ones of the same images as they
are [inferred]; as released, both are of clean images under two sets of prompts, which is `Source(source_moments(adversarially
tuned, ...), source_moments(cleanly tuned, ...))`.

Equations, V' the confident views, mu_l and var_l the statistics of their tokens in front of block l of L, "adv" and
"clean" those of the source images:

    L = H(1/|V'| sum_{v in V'} p_v) + weight / L sum_l [gamma d_l(adv) + (1 - gamma) d_l(clean)]
    d_l(s) = 1/2 mean(|mu_l - mu_l(s)| + |var_l - var_l(s)|)  (align="l1")
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ironclip.backbones import AdaptedClassifier
from ironclip.core.errors import UsageError, on_behalf_of
from ironclip.core.losses import cross_entropy_each
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.core.tensors import ascend, generator
from ironclip.core.types import Batch, Classifier, Trace
from ironclip.testtime._base import DRAWS, AdaptingClassifier, Observed, TestTimeMethod, features_of, plain_head
from ironclip.testtime._deep import DeepPrompted, Prompts
from ironclip.testtime._prompts import AdamW, marginal_entropy, most_confident, picked, share
from ironclip.testtime._statistics import KINDS, Moments, Running, Source, alignment, block_inputs, moments
from ironclip.testtime._views import few_views, marked, with_views

START = 7  # keeps the draw of new prompts apart from other uses of the seed


class TAPT(TestTimeMethod):
    """Marginal entropy of confident views plus the distance of their statistics from the source's; the answer is the image's own.

    Args:
        design: "vli": prompts of both towers are tuned; "v": those of the image tower.
        source: "train": statistics of the training images, made by `prepare`; "none": entropy alone; or a file of
            `Source.save`, or (from Python) a `Source`.
        source_eps, source_steps: l-infinity attack on the training images for the adversarial statistics, in steps of its
            radius, on the prompts as trained.
        views: V, the image itself included; crops and flips.
        select: share of the views, those of lowest entropy, on which both terms are taken.
        steps: of AdamW; 0: no tuning.
        lr, weight_decay: of AdamW.
        align: distance: "l1", "l2", "mmd", "kl", "js", or "multi", which goes from MMD to l1 as the steps go on.
        weight: of the distance, divided by the number of configured layers.
        gamma: share of the adversarial statistics; 0: clean alone.
        align_from, align_to: configured layers, the last excluded; align_to None: nine, or all of a tower that has fewer.
        skip_last: leave out the last configured layer, too, as released.
        sigma: width of MMD's kernel.
        length, depth: image prompts of a base that has none: tokens per layer, and layers (None: nine).
    """

    def __init__(
        self, *, design: str = "vli", source: str | Source = "train", source_eps: float = 1 / 255, source_steps: int = 2,
        views: int = 64, select: float = 0.1, steps: int = 1, lr: float = 5e-4, weight_decay: float = 0.01, align: str = "l1",
        weight: float = 100.0, gamma: float = 0.5, align_from: int = 0, align_to: int | None = None, skip_last: bool = True,
        sigma: float = 1.0, length: int = 2, depth: int | None = None, seed: int = 0, draws: int = DRAWS,
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, draws=draws)
        check_choice("design", design, ("vli", "v"))
        check_choice("align", align, KINDS)
        check_flags(skip_last=skip_last)
        for whole, value, least in (
            ("views", views, 1), ("steps", steps, 0), ("source_steps", source_steps, 1), ("length", length, 1),
            ("depth", 1 if depth is None else depth, 1), ("align_from", align_from, 0),
            ("align_to", align_from + 1 if align_to is None else align_to, align_from + 1),
        ):  # fmt: skip
            check_whole(whole, value, least)
        for number, given in (("lr", lr), ("weight_decay", weight_decay), ("weight", weight)):
            check_number(number, given, 0)
        check_number("select", select, 0, 1, above=True)
        check_number("source_eps", source_eps, 0, 1)
        check_number("gamma", gamma, 0, 1)
        check_number("sigma", sigma, 0, above=True)
        if not isinstance(source, str | Source) or source == "":
            raise UsageError(f"source must be train, none, or a file of source statistics; got {source!r}")
        self.design, self.source_eps, self.source_steps = design, source_eps, source_steps
        self.views, self.select, self.steps, self.lr, self.weight_decay = views, select, steps, lr, weight_decay
        self.align, self.weight, self.gamma, self.sigma = align, weight, gamma, sigma
        self.align_from, self.align_to, self.skip_last = align_from, align_to, skip_last
        self.length, self.depth = length, depth
        self.from_training = source == "train"
        self.aligned = source != "none" and weight > 0
        self.statistics: Source | None = source if isinstance(source, Source) else None
        if isinstance(source, str) and source not in ("train", "none"):
            self.statistics = Source.load(Path(source))
        self.passes = views + steps * share(select, views) + 1

    def prepared(self, base: AdaptedClassifier) -> DeepPrompted:
        plain_head(base, "prompt tuning")
        draw = generator(self.seed, START)
        with on_behalf_of("tapt"):
            return DeepPrompted(base, text=self.design == "vli", length=self.length, depth=self.depth, generator=draw)

    def prepare(self, base: Classifier, batches: Iterable[Batch]) -> None:
        """Source statistics of these images, where the option says source="train"; else the images are not asked for."""
        if not self.from_training or not self.aligned:
            return
        if not isinstance(base, AdaptedClassifier):
            raise UsageError(f"source statistics need a classifier made by assemble; got {type(base).__name__}")
        prompted, adversarial, clean = self.prepared(base), Running(), Running()
        for batch in batches:
            batch = batch.to(base.backbone.device)
            clean.add(block_inputs(prompted, batch.images.to(base.backbone.dtype)))
            adversarial.add(block_inputs(prompted, self.attacked(prompted, batch)))
        self.statistics = Source(adversarial.moments(), clean.moments())

    def attacked(self, base: DeepPrompted, batch: Batch) -> Tensor:
        """[B, 3, S, S] the images of a batch after the attack of the adversarial statistics."""
        if tuple(batch.classes) != tuple(base.classes):
            with torch.no_grad():
                base = self.prepared(AdaptedClassifier(base.backbone, batch.classes, base.adaptation, base.precision))
        images, eps = batch.images.to(base.backbone.dtype), self.source_eps
        steps = self.source_steps if eps > 0 else 0
        loss = lambda logits: cross_entropy_each(logits, batch.labels)  # noqa: E731
        return ascend(base, loss, images, images, eps=eps, step_size=eps, steps=steps, names=batch.indices)

    def __call__(self, base: Classifier) -> AdaptingClassifier:
        classifier = super().__call__(base)
        if self.aligned:
            assert isinstance(classifier.base, DeepPrompted)
            self._check(classifier.base)
        return classifier

    def _check(self, base: DeepPrompted) -> None:
        if self.statistics is None:
            raise UsageError(
                "tapt needs source statistics: put it on a trained run whose training images are there, name a file "
                "(source=FILE), or tune on the entropy alone (source=none)"
            )
        spec = base.backbone.spec
        wanted = (spec.image_layers, spec.image_tokens + base.length, spec.image_width)
        for kept in (self.statistics.adversarial, self.statistics.clean):
            if tuple(kept.mean.shape) != wanted or kept.variance.shape != kept.mean.shape:
                raise UsageError(
                    f"source statistics of {spec.name} with these prompts have shape {wanted}; got {tuple(kept.mean.shape)}. "
                    "They fit one backbone and one set of prompts; make them again with source=train"
                )
        self.layers(spec.image_layers)

    def layers(self, tower: int) -> range:
        """Layers whose statistics are compared, of a tower with so many."""
        end = min(9, tower) if self.align_to is None else self.align_to
        if end > tower or end - self.skip_last <= self.align_from:
            skipped = " without the last" if self.skip_last else ""
            raise UsageError(
                f"layers {self.align_from} to {end}{skipped} are not in a tower of {tower} layers, or none are left; "
                "change align_from and align_to, or set skip_last=false"
            )
        return range(self.align_from, end - self.skip_last)

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """A few views with nothing tuned, and draws of the whole adaptation."""
        return (few_views(classifier, self.views, augmix=False), *super().surrogates(classifier))

    def logits(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Tensor:
        assert isinstance(base, DeepPrompted)
        with torch.no_grad():
            chosen = picked(*self.ranked(base, images, keys))
        prompts = self.tune(base, chosen)
        with torch.no_grad():
            text = base.texts(prompts) if self.steps else base.text_features
        return plain_head(base, "prompt tuning")(base.features(images[:, None], prompts[0]), text)[:, 0]

    def ranked(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> tuple[Tensor, Tensor]:
        """[B, V, 3, S, S] views, and [B, n] those of lowest entropy."""
        views = with_views(images, keys, self.views - 1, augmix=False)
        start = plain_head(base, "prompt tuning")(features_of(base, views), base.text_features)
        return views, most_confident(start, share(self.select, self.views))

    def observed(self, base: AdaptedClassifier, images: Tensor, keys: Sequence[int]) -> Observed:
        views, selected = self.ranked(base, images, keys)
        chosen = marked(selected, self.views)
        return Observed(views, chosen.to(views.dtype) / selected.shape[1], chosen & (self.steps > 0))

    def tune(self, base: DeepPrompted, views: Tensor) -> Prompts:
        """The tuned prompts of each image, a fresh start for every one; from its selected views [B, n, 3, S, S]."""
        prompts = tuple(values.expand(len(views), *values.shape) for values in base.start)
        optimizers = [AdamW(self.lr, self.weight_decay) for _ in prompts]
        for number in range(self.steps):
            slopes = self.slopes(base, prompts, views, number)
            prompts = tuple(step(value, slope) for step, value, slope in zip(optimizers, prompts, slopes, strict=True))
        return prompts

    def slopes(self, base: DeepPrompted, prompts: Prompts, views: Tensor, number: int) -> Prompts:
        """Gradients of each image's loss with respect to its own prompts, at step `number` from 0."""
        trace = Trace(layers=self.layers(base.backbone.spec.image_layers)) if self.aligned else None
        shared = number == 0
        with torch.no_grad():
            text = base.text_features.expand(len(views), *base.text_features.shape) if shared else base.texts(prompts)
        with torch.enable_grad():
            image, text = prompts[0].detach().clone().requires_grad_(), text.detach().clone().requires_grad_()
            features = base.features(views, image, trace)
            loss = marginal_entropy(plain_head(base, "prompt tuning")(features, text))
            if trace is not None:
                each = [moments(trace.inputs[layer].unflatten(0, views.shape[:2])) for layer in sorted(trace.inputs)]
                found = Moments(torch.stack([m.mean for m in each], dim=1), torch.stack([m.variance for m in each], dim=1))
                loss = loss + self.alignment(found, base.backbone.spec.image_layers, number)
            slope, cotangents = torch.autograd.grad(loss.sum(), (image, text))
        return slope, *base.pull(prompts, cotangents, shared=shared)

    def alignment(self, found: Moments, tower: int, number: int = 0) -> Tensor:
        """[B] weighted distance of views' moments [B, L', N, D] of `layers(tower)` from the source's."""
        assert self.statistics is not None
        layers = self.layers(tower)
        distances = [
            alignment(self.align, found, kept.like(found.mean, layers), sigma=self.sigma, step=number, steps=self.steps)
            for kept in (self.statistics.adversarial, self.statistics.clean)
        ]
        configured = len(layers) + self.skip_last
        return self.weight / configured * (self.gamma * distances[0] + (1 - self.gamma) * distances[1])


METHOD = TAPT
