"""DEFEAT: pass the grid of patch features through a small VQ-VAE, classify what comes out, average with the class token's logits.

Source: "Discrete Latent Features Ablate Adversarial Attack" (ICLR 2026, OpenReview lZgORA63ew) [paper]; cheny02/DEFEAT-ICLR2026
[code]. Learned: `context` [M, D], the shield (encoder, codebook, decoder), the pooling (one weight per patch and a bias), and a
gate if asked for. The vision tower is meant to be a robust one already. Trained on adversarial images alone.

Equations, g the grid of patch features and g' what is rebuilt, z the latents and z_q their nearest codes, sg a constant, c the
class feature and c' the pooled one, t the text features and t_0 those of hand-written prompts; squares and L1 are means over all
elements:

    L = CE + alpha |g - g'|^2 + beta |z_q - sg z|^2 + gamma |z - sg z_q|^2 + lambda L1(c, c') + mu L1(t, t_0)
    logits = a s cos(c, t) + (1 - a) s cos(c', t)  [code]

Deviations: float32 throughout (there float16, where the choice of codes is decided by rounding); sizes follow the backbone
(there 512 channels and 7 x 7 patches); text features once per step (exact). Default options are not the published ones but those
of preset defeat/stable [inferred]: layer norm in front of the encoder, codes that start as latents and follow them as moving
averages, unused ones replaced. Preset defeat/official has the published ones.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ironclip.backbones import DEFAULT_TEMPLATE, AdaptedClassifier, assemble
from ironclip.backbones.assembly import ScaledCosine
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.options import check_choice, check_flags, check_number, check_whole
from ironclip.core.tensors import generator as keyed
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Classifier, Context, Defense, ImageOutput, check_classes
from ironclip.defenses import _defeat_attacks
from ironclip.defenses._blocks import normal
from ironclip.defenses._fusion import FusionGate, ShieldHead
from ironclip.defenses._shield import PatchPool, PixelShield, Reconstruction, Shield

CHOICES: dict[str, tuple[str, ...]] = {
    "reconstruct": ("grid", "class", "pixels"),
    "fusion": ("logits", "probs"),
    "pre_norm": ("none", "layernorm", "l2"),
    "start": ("data", "uniform"),
    "code_losses": ("mean", "sum"),
}
WEIGHTS = ("reconstruction", "code_weight", "commitment", "image_alignment", "text_alignment")


class DEFEAT(Defense):
    """Discrete latent features and a learned context.

    Args:
        length: M, learned words; 0: none, for a stack whose other part brings them ("apt+defeat").
        codes: K; latent_width: d.
        reconstruct: what the shield rebuilds: the "grid" of patch features, the "class" feature alone, or the "pixels" in front
            of the tower (ablation; one branch, so it needs fusion_weight=0).
        fusion: average "logits" [code] or "probs" [paper].
        fusion_weight: a, the weight of the class branch; "adaptive": a small gate chooses it for every image [inferred].
        pre_norm: norm of every position in front of the encoder.
        decay: of the codes as moving averages; 0: codes learned by gradient [code].
        start: codes start as latents of the first batches ("data") or as U(-1/K, 1/K) [code].
        revive_below: moving count of positions per batch under which a code is replaced by a random latent; 0: never; needs
            decay.
        code_losses: squares of both code losses averaged over all elements [code] or summed over the d channels.
        reconstruction, code_weight, commitment, image_alignment, text_alignment: alpha, beta, gamma, lambda, mu. Codes that
            are moving averages have no use for beta.
        decay_all: weight decay on every parameter [code], not only on the matrices.
        templates: hand-written prompts that the text features are pulled to; default: the data set's.
    """

    divisible = False

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int = 16,
        codes: int = 512,
        latent_width: int = 256,
        reconstruct: str = "grid",
        fusion: str = "logits",
        fusion_weight: float | str = 0.5,
        pre_norm: str = "layernorm",
        decay: float = 0.99,
        start: str = "data",
        revive_below: float = 0.01,
        code_losses: str = "mean",
        reconstruction: float = 0.5,
        code_weight: float = 0.1,
        commitment: float = 0.25,
        image_alignment: float = 10.0,
        text_alignment: float = 20.0,
        decay_all: bool = False,
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        classes = check_classes(classes)
        given = {"reconstruct": reconstruct, "fusion": fusion, "pre_norm": pre_norm, "start": start, "code_losses": code_losses}
        for option, value in given.items():
            check_choice(option, value, CHOICES[option])
        check_whole("length", length, 0)
        check_whole("codes", codes, 2)
        check_whole("latent_width", latent_width, 1)
        weights = (reconstruction, code_weight, commitment, image_alignment, text_alignment)
        for option, weight in (*zip(WEIGHTS, weights, strict=True), ("revive_below", revive_below)):
            check_number(option, weight, 0)
        check_number("decay", decay, 0, 1)
        check_flags(decay_all=decay_all)
        _check_fusion(fusion_weight, reconstruct)
        if decay == 1:
            raise UsageError("decay=1 would never move a code; it must be below 1, or 0 for codes learned by gradient")
        spec = backbone.spec
        if reconstruct == "grid" and not spec.grid:
            raise UnsupportedEdit(f"{spec.name} has no grid of tokens to rebuild; use a ViT backbone, or reconstruct=class")
        if reconstruct == "pixels" and spec.resolution % PixelShield.SIDE:
            raise UnsupportedEdit(f"{spec.name} takes images of {spec.resolution} px, which patches of 4 px do not tile")
        self.weights = dict(zip(WEIGHTS, weights, strict=True))
        self.start, self.code_losses, self.decay_all = start, code_losses, decay_all
        self.revive_below = revive_below if decay else 0.0
        self.templates = (templates,) if isinstance(templates, str) else tuple(templates)
        self.context = normal(length, spec.text_width, generator=generator) if length else None
        channels = 3 * PixelShield.SIDE**2 if reconstruct == "pixels" else spec.embed_dim
        shield = Shield(channels, latent_width, codes, decay=decay, pre_norm=pre_norm, generator=generator)  # type: ignore[arg-type]
        self.branch: ShieldHead | PixelShield
        if reconstruct == "pixels":
            self.branch = PixelShield(shield)
        else:
            pool = PatchPool(spec.grid**2 if reconstruct == "grid" else 1, generator)
            gate = FusionGate(spec.embed_dim, generator=generator) if isinstance(fusion_weight, str) else None
            fixed = 0.5 if isinstance(fusion_weight, str) else float(fusion_weight)
            cosine = ScaledCosine(spec.logit_scale, spec.logit_bias)
            options: dict[str, Any] = {"level": reconstruct, "fusion": fusion, "weight": fixed, "gate": gate}
            self.branch = ShieldHead(shield, pool, cosine, **options)
        self._numbers: dict[str, float] = {}
        self._hand: tuple[tuple[str, ...], Tensor] | None = None
        self.to(backbone.device, backbone.dtype)
        with torch.no_grad():  # fails here, not in the first step, if prompts are too long for the context
            self._hand_features(backbone, classes)
            assemble(backbone, classes, self.adaptation(backbone, classes))

    @property
    def shield(self) -> Shield:
        return self.branch.shield

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        words = Context(self.context) if self.context is not None else None
        templates = () if words else self.templates
        if isinstance(self.branch, PixelShield):
            return Adaptation(pixels=(self.branch,), context=words, templates=templates)
        return Adaptation(head=self.branch, context=words, templates=templates)

    @torch.no_grad()
    def prepare(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        """Let the codes start as latents of clean images, from as many batches as hold 16 K positions."""
        if self.start == "uniform":
            return
        latents: list[Tensor] = []
        seeds: list[int] = []
        for batch in batches:
            batch = batch.to(backbone.device)
            latents.append(self.shield.encode(self._grid(backbone, batch.images)).flatten(0, 1))
            seeds += batch.indices.tolist()
            if sum(map(len, latents)) >= 16 * len(self.shield.quantiser.codebook):
                break
        if latents:
            self.shield.quantiser.start(torch.cat(latents), keyed(*seeds))

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        adaptation = adaptation or self.adaptation(backbone, batch.classes)
        classifier = assemble(backbone, batch.classes, adaptation)
        adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
        logits, features, pooled, made = self._look(backbone, classifier, adv)
        quantiser, weights = self.shield.quantiser, self.weights
        chosen = quantiser.nearest(made.latent)
        codes = quantiser.look_up(chosen)
        scale = made.latent.shape[-1] if self.code_losses == "sum" else 1
        hand = self._hand_features(backbone, batch.classes)
        unit, shielded = F.normalize(features, dim=-1), F.normalize(pooled, dim=-1)
        terms = {
            "adv_ce": F.cross_entropy(logits, batch.labels),
            "reconstruction": weights["reconstruction"] * F.mse_loss(made.rebuilt, made.grid.detach()),
            "commitment": weights["commitment"] * scale * F.mse_loss(made.latent, codes.detach()),
            "image_alignment": weights["image_alignment"] * F.l1_loss(unit.detach(), shielded),
            "text_alignment": weights["text_alignment"] * F.l1_loss(classifier.text_features, hand),
        }
        if not quantiser.decay:
            terms["codebook"] = weights["code_weight"] * scale * F.mse_loss(codes, made.latent.detach())
        self._note(made, chosen, unit.detach(), shielded.detach())
        if quantiser.decay and self.training:
            self._move_codes(made.latent, chosen, batch)
        return terms

    def diagnostics(self) -> dict[str, float]:
        return dict(self._numbers)

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        if not isinstance(classifier, AdaptedClassifier):
            raise UsageError("the surrogates of defeat stand on the classifier that `assemble` makes; got another one")
        bare = _defeat_attacks.transfer(classifier, self.templates)
        if isinstance(self.branch, PixelShield):
            return (*_defeat_attacks.of_pixels(classifier, self.branch), bare)
        return (*_defeat_attacks.of_head(classifier, self.branch), bare)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """One group [code], or one of matrices and one without weight decay: codes, context, biases, pooling."""
        if self.decay_all:
            return [{"params": list(self.parameters()), "lr": lr}]
        matrices = [p for name, p in self.named_parameters() if name.endswith(".weight") and ".pool." not in f".{name}"]
        mine = {id(p) for p in matrices}
        rest = [p for p in self.parameters() if id(p) not in mine]
        return [{"params": matrices, "lr": lr}, {"params": rest, "lr": lr, "weight_decay": 0.0}]

    def _grid(self, backbone: Backbone, images: Tensor) -> Tensor:
        """[B, N, D] of what the shield rebuilds, from the tower without the shield."""
        if isinstance(self.branch, PixelShield):
            return self.branch.grid(images)
        trace = self.branch.observer()
        return self.branch.grid(ImageOutput(backbone.encode_image(images, trace=trace), trace))

    def _look(
        self, backbone: Backbone, classifier: AdaptedClassifier, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Reconstruction]:
        """Logits [B, K] of the defence, features [B, E] without the shield, with it, and what the shield made."""
        if isinstance(self.branch, PixelShield):
            pooled = classifier.encode_image(images)
            logits = classifier.head(ImageOutput(pooled), classifier.text_features)
            return logits, backbone.encode_image(images), pooled, self.shield(self.branch.grid(images))
        trace = self.branch.observer()
        output = ImageOutput(classifier.encode_image(images, trace=trace), trace)
        found = self.branch.branches(output, classifier.text_features)
        logits = self.branch.fuse(found.of_class, found.of_shield, found.weight)
        if isinstance(found.weight, Tensor):
            self._numbers = {"fusion_weight": float(found.weight.detach().mean())}
        return logits, output.features, found.pooled, found.made

    @torch.no_grad()
    def _hand_features(self, backbone: Backbone, classes: Sequence[str]) -> Tensor:
        """[K, E] unit text features of the hand-written prompts; computed once per class list."""
        names = tuple(classes)
        if self._hand is None or self._hand[0] != names:
            self._hand = names, assemble(backbone, names, Adaptation(templates=self.templates)).text_features
        return self._hand[1]

    def _note(self, made: Reconstruction, chosen: Tensor, unit: Tensor, shielded: Tensor) -> None:
        """Log the health of the codes, and how much the shielded features differ between images, relative to the class
        features."""
        spread = (shielded - shielded.mean(0)).norm() / (unit - unit.mean(0)).norm().clamp_min(1e-12)
        self._numbers = {**self._numbers, **self.shield.quantiser.health(made.latent, chosen), "shield_spread": float(spread)}

    def _move_codes(self, latent: Tensor, chosen: Tensor, batch: Batch) -> None:
        quantiser = self.shield.quantiser
        quantiser.update(latent, chosen)
        if self.revive_below:
            self._numbers["revived_codes"] = float(quantiser.revive(latent, self.revive_below, keyed(*batch.indices.tolist())))


def _check_fusion(weight: object, reconstruct: str) -> None:
    if isinstance(weight, str):
        check_choice("fusion_weight", weight, ("adaptive",))
    else:
        check_number("fusion_weight", weight, 0, 1)
    if reconstruct == "pixels" and weight != 0:
        raise UsageError(f"reconstruct=pixels leaves one branch, so it needs fusion_weight=0; got {weight!r}")


METHOD = DEFEAT
