"""The constants of an attack that differ from its defaults, so that a caption names those that were set. Without torch.

Left out are those that change no result of a deterministic classifier (mode, eval_mode), and those that stand elsewhere in
every record: radius, norm and seed (`attacks.FREE`).
"""

from collections.abc import Mapping
from typing import Any

from ironclip import attacks

MEMBERS = {**attacks.MEMBERS, **attacks.STANDARD_FAST}


def unusual(name: str, constants: Mapping[str, Any]) -> dict[str, Any]:
    """The constants that are not what the name of the attack stands for; those of the attack inside a wrapper count.

    Args:
        name: as in `Sample.adversarial`. constants: of `record.describe`; nothing is known of attacks out of the catalogue.
    """
    if isinstance(inner := constants.get("inner"), Mapping):
        return unusual(name, inner)
    kind = str(constants.get("attack", "")).replace("_", "-")
    member = name.partition("/")[0]
    expected = attacks.usual(kind) | (attacks.usual(member) if member in MEMBERS else {})
    return {key: constants[key] for key, value in expected.items() if key in constants and constants[key] != value}


def words(name: str, constants: Mapping[str, Any]) -> str:
    """The name, and what is unusual about it: "pgd", "pgd (steps 1, keep last)"."""
    said = ", ".join(f"{key} {value}" for key, value in unusual(name, constants).items())
    return f"{name} ({said})" if said else name
