"""AVP: a learned frame of pixels around the image and a few learned input tokens, trained on adversarial images.

Source: "visual prompting" of TeCoA (arXiv 2212.07016), cvlab-columbia/ZSRobust4FoundationModel models/prompters.py and
replace/model.py; the "AVP" of APT and CAPT and the "AdvVP" of FAP and AdvMask. (The "AdvVP" of TAPT and APD is `adv_vpt`.)
Learned: four strips of the frame, 12 p (S - p) parameters for pad p and side S, and `tokens` [1, M, D]; 73,680 parameters for
ViT-B at 224 pixels with p = 30, M = 5. All start as N(0, 1) [code].

The frame is added to the normalised image, and nothing is clamped [code]. Deviations: the tokens' own position embedding, which
starts at zero and which no optimiser moves in the released codes, is left out (exact); the frame scales with the images.

Equations, norm the backbone's normalisation, F the frame (zero in the centre), v the tokens, f the tower on both:

    z(x) = f([norm(x) + F, v])
    L = CE(s cos(z(x'), T), y),  x' = argmax_{||x' - x|| <= eps} CE(s cos(z(x'), T), y)
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ironclip.backbones import DEFAULT_TEMPLATE, AdaptedClassifier, assemble
from ironclip.core.errors import UnsupportedEdit, UsageError
from ironclip.core.options import check_flags, check_templates, check_whole
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, Classifier, Defense, check_classes
from ironclip.defenses._blocks import ImagePrompts, normal

PAD, SIDE = 30, 224
"""The published frame: so many pixels wide, at images of this side."""


class PixelFrame(nn.Module):
    """images [B, 3, S, S] in [0, 1] -> images + frame, whose strips are in units of normalised pixels; zero in the centre.

    Args:
        pad: p, width of the frame in pixels.
        side: S.
        std: of the three channels in the backbone's normalisation.
    """

    std: Tensor

    def __init__(self, pad: int, side: int, std: Sequence[float], *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.up, self.down = (normal(1, 3, pad, side, std=1.0, generator=generator) for _ in range(2))
        self.left, self.right = (normal(1, 3, side - 2 * pad, pad, std=1.0, generator=generator) for _ in range(2))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64).view(3, 1, 1), persistent=False)

    def strips(self) -> Tensor:
        """[1, 3, S, S]."""
        middle = self.left.new_zeros(1, 3, self.left.shape[2], self.up.shape[3] - 2 * self.up.shape[2])
        rows = torch.cat([self.left, middle, self.right], dim=3)
        return torch.cat([self.up, rows, self.down], dim=2)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.strips() * self.std


class AVPPixel(Defense):
    """A frame of pixels and extra input tokens.

    Args:
        pad: p, width of the frame in pixels; default: 30 at 224 pixels, in proportion elsewhere; 0: no frame.
        tokens: M, input tokens behind the patches; 0: none.
        templates: prompts with `{}` for the class name; several are averaged.
        frame_at_test: False leaves the frame out of the classifier that is evaluated, as FAP's code does by mistake: its clean
            and attacked images are classified with the tokens alone. White-box attacks then attack the classifier that is scored;
            in FAP's code they attacked the one with the frame, which is a surrogate here.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        pad: int | None = None,
        tokens: int = 5,
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        frame_at_test: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        classes, spec = check_classes(classes), backbone.spec
        pad = max(1, round(PAD * spec.resolution / SIDE)) if pad is None else pad
        check_whole("pad", pad, 0)
        check_whole("tokens", tokens, 0)
        check_flags(frame_at_test=frame_at_test)
        if 2 * pad >= spec.resolution:
            raise UsageError(f"pad={pad} leaves nothing of an image of {spec.resolution} pixels; use less than half of the side")
        if not pad and not tokens:
            raise UsageError("pad=0 and tokens=0 leave nothing to learn; use zero_shot")
        if tokens and not spec.image_tokens:
            raise UnsupportedEdit(f"{spec.name} has no token sequence to put tokens into; set tokens=0, or use a ViT backbone")
        if not pad and not frame_at_test:
            raise UsageError("frame_at_test=False needs a frame; pad is 0")
        self.templates = check_templates(templates)
        self.frame_at_test = frame_at_test
        self.frame = PixelFrame(pad, spec.resolution, spec.std, generator=generator) if pad else None
        self.tokens = (
            ImagePrompts(1, tokens, spec.image_width, layers=spec.image_layers, before_ln_pre=True, std=1.0, generator=generator)
            if tokens
            else None
        )
        self.to(backbone.device, backbone.dtype)
        with torch.no_grad():
            assemble(backbone, classes, self.adaptation(backbone, classes))

    def adaptation(self, backbone: Backbone, classes: Sequence[str]) -> Adaptation:
        tokens = () if self.tokens is None else (self.tokens,)
        return self._framed(Adaptation(image_edits=tokens, templates=self.templates), self.frame_at_test)

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        whole = self._framed(adaptation or self.adaptation(backbone, batch.classes), not self.frame_at_test)
        classifier = assemble(backbone, batch.classes, whole)
        adv = attack(classifier.detached(), batch.images, batch.labels, indices=batch.indices)
        return {"adv_ce": cross_entropy(classifier(adv), batch.labels)}

    def surrogates(self, classifier: Classifier) -> tuple[Classifier, ...]:
        """The classifier with the frame, where it is left out of the one that is evaluated."""
        if self.frame_at_test or not isinstance(classifier, AdaptedClassifier):
            return ()
        with torch.no_grad():
            return (assemble(classifier.backbone, classifier.classes, self._framed(classifier.adaptation, True)),)

    def _framed(self, adaptation: Adaptation, framed: bool) -> Adaptation:
        """The adaptation with the frame in front, if `framed`."""
        if self.frame is None or not framed:
            return adaptation
        return replace(adaptation, pixels=(self.frame, *adaptation.pixels))


METHOD = AVPPixel
