"""APD: prompts in both towers, trained on adversarial images; the predictions of a non-robust CLIP are a second target.

Source: arXiv 2411.15244; its listed code could not be obtained. [paper]: deep prompts in both towers, a frozen teacher that is
not robust and sees the clean image, KL of the student's adversarial answers to it beside the task's cross-entropy, an inner
attack on the student's cross-entropy. [inferred], all options: weights, temperature, which cross-entropy, prompt length and
depth, and whether the teacher's own prompts are tuned on clean images first.

With z_S the student's logits, z_T the teacher's, weight a and temperature t:

    L = (1 - a) CE(z_S(x'), y) + a t^2 KL( softmax(z_T(x) / t) || softmax(z_S(x') / t) )

Learned: the student's prompts as in AdvVLP; 23,040 parameters for ViT-B, P = 2, J = 9.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ironclip.backbones import DEFAULT_TEMPLATE, AdaptedClassifier, assemble
from ironclip.core.errors import UsageError
from ironclip.core.losses import kl_each
from ironclip.core.options import check_choice, check_number, check_whole
from ironclip.core.types import Adaptation, Attack, Backbone, Batch, check_classes
from ironclip.defenses._families import PromptTuning
from ironclip.defenses._frozen import SAME, FrozenClip
from ironclip.defenses._prompts import IndependentPrompts

CeOn = Literal["adv", "clean", "none"]
LEARNING_RATE = 0.0035
"""Of the teacher's prompts: the published rate of such prompts, SGD with momentum 0.9."""


class Distillation:
    """The named loss terms of one step.

    Args:
        teacher: the frozen model; the others as for `APD`.
    """

    def __init__(self, teacher: FrozenClip, weight: float, temperature: float, ce_on: CeOn, clean_weight: float) -> None:
        check_number("weight", weight, 0, 1)
        check_number("temperature", temperature, 0, above=True)
        check_choice("ce_on", ce_on, get_args(CeOn))
        check_number("clean_weight", clean_weight, 0)
        if ce_on == "none" and not weight:
            raise UsageError("ce_on='none' and weight=0 leave no loss; give the teacher a weight above 0")
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        self.ce_on, self.clean_weight = ce_on, clean_weight

    def __call__(self, classifier: AdaptedClassifier, batch: Batch, attack: Attack) -> dict[str, Tensor]:
        images, labels = batch.images, batch.labels
        attacked = classifier(attack(classifier.detached(), images, labels, indices=batch.indices))
        clean = classifier(images) if self.clean_weight or self.ce_on == "clean" else attacked
        terms = {}
        if self.ce_on != "none" and self.weight < 1:
            terms[f"{self.ce_on}_ce"] = (1 - self.weight) * cross_entropy(attacked if self.ce_on == "adv" else clean, labels)
        if self.weight or self.clean_weight:
            target = self.teacher.logits(classifier.backbone, images, batch.classes)
            if self.weight:
                terms["distillation"] = self.weight * self._to(target, attacked)
            if self.clean_weight:
                terms["clean_distillation"] = self.clean_weight * self._to(target, clean)
        return terms

    def _to(self, target: Tensor, logits: Tensor) -> Tensor:
        """t^2 times the mean KL from the teacher's softened prediction."""
        return self.temperature**2 * kl_each(logits / self.temperature, target / self.temperature).mean()


class APD(PromptTuning):
    """Independent prompts and a clean teacher.

    Args:
        length: P, prompts per layer in either tower.
        depth: J, prompted layers; default: nine, or all layers of a tower that has fewer.
        sides: "both" towers, or "text" alone.
        weight: a, of the teacher against the cross-entropy; 0 is AdvVLP.
        temperature: t.
        ce_on: images of the cross-entropy: "adv", "clean" or "none".
        clean_weight: of the same divergence for the student's predictions on clean images.
        teacher: the frozen model: "same_backbone" (without prompts) or the name of another one such as "ViT-B-32/openai".
        teacher_epochs: passes in which the teacher's own prompts are tuned on clean images before training; 0: zero-shot.
        templates: the prompts of a zero-shot teacher.
        init: the words before the class name; the first P of them become the first text prompts.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: Sequence[str],
        *,
        length: int = 2,
        depth: int | None = None,
        sides: Literal["both", "text"] = "both",
        weight: float = 0.5,
        temperature: float = 1.0,
        ce_on: CeOn = "adv",
        clean_weight: float = 0.0,
        teacher: str = SAME,
        teacher_epochs: int = 0,
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        init: str = "a photo of a",
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("sides", sides, ("both", "text"))
        check_whole("teacher_epochs", teacher_epochs, 0)
        frozen = FrozenClip(teacher, backbone, check_classes(classes), templates)
        objective = Distillation(frozen, weight, temperature, ce_on, clean_weight)
        student = IndependentPrompts(backbone, length=length, depth=depth, init=init, sides=sides, generator=generator)
        super().__init__(backbone, classes, student, objective)
        self.distillation, self.teacher_epochs = objective, teacher_epochs
        self._start: dict[str, Any] = {"length": length, "depth": depth, "sides": sides, "init": init}
        self._seed = int(torch.randint(2**31, (), generator=generator)) if teacher_epochs else 0

    def prepare(self, backbone: Backbone, batches: Iterable[Batch]) -> None:
        """Loads the teacher if it is another model, and tunes its prompts on clean images if asked for."""
        teacher = self.distillation.teacher
        model = teacher.ready(backbone)
        if self.teacher_epochs:
            draw = torch.Generator().manual_seed(self._seed)
            prompts = IndependentPrompts(model, **self._start, generator=draw).to(model.device, model.dtype)
            tune(prompts, model, list(batches), self.teacher_epochs)
            teacher.adapt(prompts.adaptation())

    def loss(
        self, backbone: Backbone, batch: Batch, attack: Attack, *, adaptation: Adaptation | None = None
    ) -> dict[str, Tensor]:
        if self.teacher_epochs and not self.distillation.teacher.adapted:
            raise UsageError("the teacher's prompts are not tuned yet; call prepare(backbone, batches) before training")
        return super().loss(backbone, batch, attack, adaptation=adaptation)


def tune(prompts: IndependentPrompts, backbone: Backbone, batches: Sequence[Batch], epochs: int) -> None:
    """Lower the cross-entropy of clean images, in place; afterwards the parameters need no gradient."""
    optimizer = torch.optim.SGD(prompts.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4)
    with torch.enable_grad():
        for _ in range(epochs):
            for given in batches:
                batch = given.to(backbone.device)
                logits = assemble(backbone, batch.classes, prompts.adaptation())(batch.images)
                optimizer.zero_grad(set_to_none=True)
                cross_entropy(logits, batch.labels).backward()
                optimizer.step()
    prompts.requires_grad_(False)


METHOD = APD
