"""What an attacker may do: the radius, its norm, and which classifier the attack is handed. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from ironclip.core.errors import UsageError

Norm = Literal["linf", "l2", "l1", "patch", "text"]
Knowledge = Literal["white-box", "static", "transfer", "black-box", "adaptive"]
NORMS = ("linf", "l2", "l1", "patch", "text")
EXAMPLES = {"l2": "0.5", "l1": "12", "patch": "0.05", "text": "0.1"}
PLACES = ("patch", "text")
"""Threats that change a place of the image as they like: eps is the share of the image's area that the place may cover."""
KNOWLEDGE = ("white-box", "static", "transfer", "black-box", "adaptive")


def parse_eps(value: str | float, norm: str = "linf") -> float:
    """The radius as a number in the unit of the images, [0, 1].

    Args:
        value: "4/255", "0.0157" or a number.
        norm: an l2 or l1 radius may exceed 1, an l-infinity radius and a share of the area may not.

    Raises:
        UsageError: not a number, negative, or too large.
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
    if norm in PLACES and eps > 1:
        raise UsageError(f"eps of a {norm} threat is a share of the image's area, from 0 to 1; got {eps:g}")
    return eps


def read_norm(text: str) -> Norm:
    """The norm of this name; UsageError where there is none."""
    if text not in NORMS:
        raise UsageError(f"norm must be one of {', '.join(NORMS)}; got {text!r}")
    return cast(Norm, text)


def parse_radii(text: str | None, norm: str = "linf", default: str = "4/255") -> list[float]:
    """The radii of a text with commas, in the units of the norm.

    Args:
        default: what None stands for, in l-infinity; elsewhere there is none, for the size depends on the images.

    Raises:
        UsageError: an unknown norm, no radius for another than linf, or as `parse_eps`.
    """
    if text is None and read_norm(norm) != "linf":
        raise UsageError(f"norm {norm} needs a radius of its own, for example --eps {EXAMPLES[norm]}")
    return [parse_eps(part, read_norm(norm)) for part in (default if text is None else text).split(",")]


def format_eps(eps: float, norm: str = "linf") -> str:
    """The radius as it is usually written: l-infinity "4/255" where it is a multiple of a quarter grey level; else decimal."""
    if norm != "linf":
        return f"{eps:.6g}"
    levels = eps * 255
    if abs(levels * 4 - round(levels * 4)) < 1e-6:
        return f"{levels:.4g}/255" if round(levels * 4) else "0"
    return f"{eps:.4g}"


@dataclass(frozen=True)
class Threat:
    """The threat model behind a robust accuracy; part of every record, caption and file name.

    Args:
        norm: how the change is measured. "patch": anything inside one rectangle. "text": words painted in one rectangle.
        eps: radius in the unit of the images, [0, 1]; for a patch and a text the share of the area that the rectangle may cover.
        knowledge: which classifier the attack is handed. "white-box": the defended one; "adaptive": the defended one
            and its surrogates; "static": the undefended one; "transfer": another backbone; "black-box": scores only.
        resolution: side in pixels at which the perturbation lives; 0: not stated.
        quantised: the perturbed image is rounded to 8 bits before it is scored.
        source: the classifier on which the images were made, where it is not the one that is scored (static, transfer).
    """

    norm: Norm = "linf"
    eps: float = 4 / 255
    knowledge: Knowledge = "white-box"
    resolution: int = 0
    quantised: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        read_norm(self.norm)
        if self.knowledge not in KNOWLEDGE:
            raise UsageError(f"knowledge must be one of {', '.join(KNOWLEDGE)}; got {self.knowledge!r}")
        parse_eps(self.eps, self.norm)

    def __str__(self) -> str:
        made = f", made on {self.source}" if self.source else ""
        return f"{self.knowledge} {self.change}{made}"

    @property
    def change(self) -> str:
        """The permitted change in words, without the attacker's knowledge: "linf 4/255 at 64 px"."""
        where = f" at {self.resolution} px" if self.resolution else ""
        rounded = " quantised" if self.quantised else ""
        return f"{self.norm} {format_eps(self.eps, self.norm)}{where}{rounded}"

    @property
    def radius(self) -> str:
        """The radius as in file names: "4/255" for l-infinity, "l2-0.5" for another norm."""
        return format_eps(self.eps) if self.norm == "linf" else f"{self.norm}-{format_eps(self.eps, self.norm)}"

    def identity(self) -> dict[str, Any]:
        """The values that tell one evaluation of a run from another.

        For static images the run itself says on which model they are made, so the source is left out.
        """
        values = asdict(self)
        if self.knowledge != "transfer":
            del values["source"]
        return values

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
