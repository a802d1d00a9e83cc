"""What the frozen dataclasses of all attacks share: common options checked, and a call that runs the attack's function."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor

from ironclip.attacks import inputs
from ironclip.core.errors import UsageError
from ironclip.core.options import check_flags, check_whole
from ironclip.core.types import Images, Loss

LEAST = {"steps": 0, "restarts": 1, "queries": 1, "targets": 0, "eot": 1}


class AttackOptions:
    """Base of an attack's dataclass; `class PGD(AttackOptions, runs=pgd)` names the function and adds only fields.

    The function takes (function, images, labels, *, indices=None, ...) and every field by name. `__post_init__` checks the
    options that mean the same everywhere: eps and norm, step_size, seed, counts (`LEAST`) and flags.

    Attributes:
        gradients: False says that it asks the attacked function for scores at most.
    """

    gradients: ClassVar[bool] = True

    _function: ClassVar[Callable[..., Tensor]]

    def __init_subclass__(cls, *, runs: Callable[..., Tensor], **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._function = staticmethod(runs)

    def __post_init__(self) -> None:
        options = self._options()
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
        indices: Tensor | None = None,
        loss: Loss | None = None,
        **draws: Any,
    ) -> Tensor:
        """The attack's pictures; `loss` replaces its own, `draws` (such as noise) stand in for its random draws."""
        options = self._options()
        if loss is not None:
            if "loss" not in options:
                raise UsageError(f"{type(self).__name__} has its own objective, so loss= cannot replace it; use pgd or apgd")
            options["loss"] = loss
        return self._function(function, images, labels, indices=indices, **options, **draws)

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
