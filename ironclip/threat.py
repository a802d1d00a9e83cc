"""What an attacker may do: the radius, its norm, and which classifier the attack is handed. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ironclip.errors import UsageError

Norm = Literal["linf", "l2"]
Knowledge = Literal["white-box", "static", "transfer", "black-box", "adaptive"]
NORMS = ("linf", "l2")
KNOWLEDGE = ("white-box", "static", "transfer", "black-box", "adaptive")


def parse_eps(value: str | float, norm: str = "linf") -> float:
    """The radius as a number in the unit of the images, [0, 1].

    Args:
        value: "4/255", "0.0157" or a number.
        norm: an l2 radius may exceed 1, an l-infinity radius may not.

    Raises:
        UsageError: not a number, negative, or an l-infinity radius above 1.
    """
    try:
        above, _, below = value.partition("/") if isinstance(value, str) else (value, "", "")
        eps = float(above) / float(below or 1)
    except (ValueError, TypeError, ZeroDivisionError):
        raise UsageError(f"eps is a number or a fraction such as 4/255; got {value!r}") from None
    if not 0 <= eps < float("inf"):
        raise UsageError(f"eps must be 0 or more and finite; got {value}")
    if norm == "linf" and eps > 1:
        raise UsageError(f"eps is in the unit of the images, [0, 1]; got {eps:g}. Did you mean {eps:g}/255?")
    return eps


def format_eps(eps: float) -> str:
    """The radius as people write it: "4/255" where it is a multiple of a quarter grey level, else decimal."""
    levels = eps * 255
    if abs(levels * 4 - round(levels * 4)) < 1e-6:
        return f"{levels:.4g}/255" if round(levels * 4) else "0"
    return f"{eps:.4g}"


@dataclass(frozen=True)
class Threat:
    """The threat model of a number; part of every record, caption and file name.

    Args:
        eps: radius in the unit of the images, [0, 1].
        knowledge: which classifier the attack is handed. "white-box": the defended one; "adaptive": the defended one
            and its surrogates; "static": the undefended one; "transfer": another backbone; "black-box": scores only.
        resolution: side in pixels at which the perturbation lives; 0: not stated.
        quantised: the perturbed image is rounded to 8 bits before it is scored.
    """

    norm: Norm = "linf"
    eps: float = 4 / 255
    knowledge: Knowledge = "white-box"
    resolution: int = 0
    quantised: bool = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UsageError(f"norm must be one of {', '.join(NORMS)}; got {self.norm!r}")
        if self.knowledge not in KNOWLEDGE:
            raise UsageError(f"knowledge must be one of {', '.join(KNOWLEDGE)}; got {self.knowledge!r}")
        parse_eps(self.eps, self.norm)

    def __str__(self) -> str:
        where = f" at {self.resolution} px" if self.resolution else ""
        return f"{self.knowledge} {self.norm} {format_eps(self.eps)}{where}{' quantised' if self.quantised else ''}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
