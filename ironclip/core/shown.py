"""Text that is safe to show in a terminal or a log. Pure."""

import unicodedata

JOINERS = "\u200c\u200d"  # they shape letters and emoji, and are seen by nobody
HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def plain(text: str) -> str:
    """The text in one line: control characters, line ends, direction marks and half characters are escaped as in Python."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(sign: str) -> str:
    hidden = unicodedata.category(sign) in HIDDEN and sign not in JOINERS
    return sign.encode("unicode_escape", "surrogatepass").decode() if hidden else sign


def number_of(number: int, noun: str, one: str = "", many: str = "") -> str:
    """A number with its noun, and with the verb that fits.

    `number_of(1, "class", "has", "have")` is "1 class has"; of 1,200 it is "1,200 classes have".
    """
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "tch", "sh")) else "s"
    verb = one if number == 1 else many
    return f"{number:,} {noun}{ending}" + (f" {verb}" if verb else "")
