"""Names that strangers chose, such as those of classes, inside our texts: one function per form of output makes a name
harmless."""

import re
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from ironclip.core.shown import plain

_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|&~$]")
_LINKS = re.compile(r"(?i)(:(?=//)|(?<=www)\.|(?<=mailto):|(?<=xmpp):|@)")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "≤": r"$\leq$",
}


RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]+(?: +[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]+)*")


def visible(text: str) -> str:
    r"""The text with every control character, direction mark and half character written as `\u202e`. Line ends stay.

    Such characters can clear a terminal, or make a name run backwards over the words and numbers beside it.
    """
    return "\n".join(map(plain, text.split("\n")))


def html(text: str) -> str:
    """A text for the inside of an HTML element or of a quoted attribute."""
    return escape(visible(text))


def prose(text: str) -> str:
    """A sentence as HTML in which words that run from right to left stand apart, so that numbers beside them keep their place."""
    return RIGHT_TO_LEFT.sub(lambda run: f"<bdi>{run[0]}</bdi>", html(text))


def bdi(text: str) -> str:
    """An HTML element whose direction of writing does not affect the text beside it."""
    return f"<bdi>{html(text)}</bdi>"


def markdown(text: str) -> str:
    """A text for the middle of a line of Markdown: none of its characters act as Markdown or HTML, or end a table cell."""
    marked = _MARKDOWN.sub(lambda sign: f"\\{sign[0]}", plain(text))
    return _LINKS.sub(lambda sign: f"&#{ord(sign[0])};", marked)


def code(text: str) -> str:
    """As inline code of Markdown."""
    return f"`{plain(text).replace('`', chr(39))}`"


def tex(text: str) -> str:
    """Text in which every special character of LaTeX is escaped."""
    return "".join(TEX.get(character, character) for character in plain(text))


def cells(values: Iterable[Any]) -> Iterator[Any]:
    """Values for a line of CSV. A spreadsheet will not read a text as a formula; numbers stay numbers."""
    for value in values:
        text = plain(value) if isinstance(value, str) else value
        yield f"'{text}" if isinstance(text, str) and text.lstrip().startswith(_FORMULA) and not _number(text) else text


def _number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", text) is not None
