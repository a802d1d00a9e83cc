"""The base of all attacks' frozen dataclasses: checks of common options, and the call."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

from torch import Tensor

from ironclip.attacks import inputs
from ironclip.core.errors import UsageError
from ironclip.core.options import check_flags, check_whole
from ironclip.core.threat import NORMS
from ironclip.core.types import Images, Loss

FITTING = {"l1": "apgd or standard-fast", "patch": "patch", "text": "typographic"}
"""Norm -> its attacks, for norms that few attacks support."""
LEAST = {"steps": 0, "restarts": 1, "queries": 1, "targets": 0, "eot": 1}


class AttackOptions:
    """Base of an attack: a frozen dataclass whose fields are its options; calling it attacks a function.

    `__post_init__` checks the options that mean the same everywhere: eps and norm, step_size, seed, counts (`LEAST`) and flags.
    Attacks can be printed, compared, stored and rebuilt (`describe`, `rebuild`).

    Attributes:
        gradients: False says that the attack needs no gradients, only scores.
        norms: those that the option norm may have.
        judges: True says that the attribute `judge` of a surrogate decides what is misclassified.
    """

    gradients: ClassVar[bool] = True
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    judges: ClassVar[bool] = False
    perturb: ClassVar[Callable[..., Tensor]]
    """(function, images, labels, positions, ...draws) -> images, written by each attack; all arguments are checked before."""

    def __post_init__(self) -> None:
        options = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        if "norm" in options and options["norm"] in NORMS and options["norm"] not in self.norms:
            better = f"; use {FITTING[options['norm']]}" if options["norm"] in FITTING else f"; use --norm {self.norms[0]}"
            raise UsageError(
                f"{type(self).__name__} is an attack in {' and '.join(self.norms)}; got norm={options['norm']!r}{better}"
            )
        if "eps" in options:
            object.__setattr__(self, "eps", inputs.check_radius(options["eps"], options.get("norm", "linf")))
        if "step_size" in options:
            object.__setattr__(self, "step_size", inputs.check_step(options["step_size"]))
        if "seed" in options:
            inputs.check_seed(options["seed"])
        for count, least in LEAST.items():
            if count in options:
                check_whole(count, options[count], least)
        check_flags(**{field.name: options[field.name] for field in fields(self) if field.type is bool})  # type: ignore[arg-type]

    @property
    def derived(self) -> dict[str, Any]:
        """Constants that follow from the options."""
        return {}

    def __call__(
        self,
        function: Images,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor | Sequence[int] | None = None,
        loss: Loss | None = None,
        **draws: Any,
    ) -> Tensor:
        """[B, ...] images in the ball and in [0, 1].

        Args:
            function: images -> logits [B, K]; a module's parameters are frozen meanwhile.
            images: [B, ...] in [0, 1], float32 (float64 for reference runs).
            labels: [B] true classes.
            indices: [B] positions in the data set, keys of the random draws; default 0 .. B-1.
            loss: (outputs, labels) -> [B] in place of the attack's own.
            draws: such as `noise`, in place of the random draws.

        Raises:
            UsageError: an option that cannot be right, or a function that returns no logits.
            DataError: images outside [0, 1] or not float, labels that name no class.
            NonFinite: a loss or a gradient is NaN or infinite.
        """
        images = inputs.check_images(images)
        labels, positions = inputs.check_labels(labels, images), inputs.check_indices(indices, images)
        if "noise" in draws:
            draws["noise"] = inputs.check_noise(draws["noise"], images)
        attack: AttackOptions = self
        if loss is not None:
            if "loss" not in {field.name for field in fields(self)}:  # type: ignore[arg-type]
                raise UsageError(f"{type(self).__name__} has its own objective, so loss= cannot replace it; use pgd or apgd")
            attack = replace(self, loss=loss)  # type: ignore[type-var]
        return attack.perturb(function, images, labels, positions, **draws) if len(images) else images
