"""The constants of an attack where nobody sets them, so that a caption names those that were set. Pure, and without torch.

Left out are those that change no result of a deterministic classifier (mode, eval_mode), and those that stand elsewhere in
every record: radius, norm and seed.
"""

from collections.abc import Mapping
from typing import Any

_CLIMB = {"step_size": None, "steps": 100, "restarts": 1, "start": "uniform", "keep": "best"}
USUAL: dict[str, dict[str, Any]] = {
    "pgd": {**_CLIMB, "loss": "ce", "targeted": False, "box": "project"},
    "cw": {**_CLIMB, "hinge": None},
    "feature": {"step_size": None, "steps": 100, "restarts": 1, "distance": "squared", "keep": "best"},
    "fgsm": {"step_size": None, "random_start": False, "loss": "ce", "targeted": False},
    "mim": {
        "step_size": None, "steps": 10, "decay": 1.0, "random_start": False, "keep": "last", "loss": "ce", "targeted": False,
    },
    "di": {
        "step_size": None, "steps": 100, "decay": 0.0, "resize": 0.9, "probability": 0.5, "random_start": False, "loss": "ce",
        "targeted": False,
    },
    "apgd": {
        "steps": 100, "restarts": 1, "loss": "ce", "targets": 0, "rho": 0.75, "first_loss": "start", "eot": 1,
        "search_dtype": "float32",
    },
    "fab": {"steps": 100, "restarts": 1, "targets": 9, "alpha_max": 0.1, "eta": 1.05, "beta": 0.9},
    "square": {"queries": 5000, "restarts": 1, "p_init": 0.8, "search_dtype": "float32"},
    "autoattack": {"version": "standard", "steps": 100, "queries": 5000, "search_dtype": "float32"},
    "adaptive": {"steps": 50, "step_size": None, "decay": 0.9, "targets": 2, "tries": 5},
    "standard-fast": {},
    "transfer": {"source": "mini", "inner": "mim", "steps": 10},
}  # fmt: skip
"""Attack -> its constants by default."""
MEMBERS: dict[str, dict[str, Any]] = {
    "apgd-dlr": {"loss": "dlr"},
    "apgd-t": {"loss": "dlr", "targets": 9},
    "pgd-ce": {"steps": 20},
    "pgd-margin": {"loss": "margin", "steps": 20},
    "apgd-t3": {"loss": "dlr", "targets": 3, "steps": 20},
}
"""Name of a member of autoattack or standard-fast -> what makes it this member."""


def unusual(name: str, constants: Mapping[str, Any]) -> dict[str, Any]:
    """The constants that are not what the name of the attack stands for; those of the attack inside a wrapper count.

    Args:
        name: as in `Sample.adversarial`. constants: of `record.describe`; nothing is known of attacks out of the catalogue.
    """
    if isinstance(inner := constants.get("inner"), Mapping):
        return unusual(name, inner)
    kind = str(constants.get("attack", "")).replace("_", "-")
    expected = {**USUAL.get(kind, {}), **MEMBERS.get(name.partition("/")[0], {})}
    return {key: constants[key] for key, value in expected.items() if key in constants and constants[key] != value}


def words(name: str, constants: Mapping[str, Any]) -> str:
    """The name, and what is unusual about it: "pgd", "pgd (steps 1, keep last)"."""
    said = ", ".join(f"{key} {value}" for key, value in unusual(name, constants).items())
    return f"{name} ({said})" if said else name
