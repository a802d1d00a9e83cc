"""One list of hostile names through every text that leaves this package: they are shown, and do nothing."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from reporting import panel, record
from rich.console import Console

from ironclip.core import escapes
from ironclip.records.record import BackboneFacts, DataFacts, Flag
from ironclip.report import RunView, as_csv, as_json, latex, markdown, page, rows, terminal
from ironclip.report.labels import Entry
from ironclip.report.leaderboard import Measured, lines, site
from ironclip.report.matrix import matrices
from ironclip.report.matrix_page import matrix_page
from ironclip.report.matrix_tables import long
from ironclip.report.photos import Photo, photos_page
from ironclip.serve.card import card
from ironclip.serve.facts import Facts, measured

NAMES = (
    "=1+1", "=cmd|' /C calc'!A0", "@SUM(A1)", "+1+2", "-1+2", "\t=1+1", " =HYPERLINK(\"x\")", "\uff1d1+1",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)", "&lt;b&gt;",
    "[a](javascript:alert(1))", "](https://evil.example)", "![x](https://evil.example/x.png)", "<https://evil.example>",
    "https://evil.example", "www.evil.example", "a@evil.example", "mailto:a@evil.example", "[x]: https://evil.example",
    "`x`", "```", "a | b", "# head", "**x**", "~~x~~", "$x$", "- item", "> quote", "---", "\\", "\\\\",
    "\\input{/etc/passwd}", "{\\bf x}", "50 %", "a & b", "a_b^c~d", "[x]", "*", "\\end{table}",
    "a\u202eb", "\u2066a", "\u200fa", "\x1b[2Ja", "a\x07", "a\nb", "a\r\nb", "a\u2028b", "\ufeffa", "\U000e0041a",
    "[bold]x[/bold]", "[/]", "{{ 7 * 7 }}", "{% raw %}", "{0}", "%s", "../../x", "\u05e9\u05dc\u05d5\u05dd",
)  # fmt: skip
SIGNS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029\ufeff\U000e0041]")


def hostile(name: str, method: str = "nap", **changes):
    """A record in which everything that others name is this name."""
    return record(
        method,
        classes=(name, "b"),
        data=DataFacts(name=name, classes=(name, "b"), available=100, suite=name),
        backbone=BackboneFacts(name=name, sha256="ab" * 32),
        flags=(Flag(id="x", level="warn", text=name),),
        notes=(name,),
        trained_on=name,
        **changes,
    )


def table(name: str):
    other = hostile(name).model_copy(update={"backbone": BackboneFacts(name="mini")})
    return rows([hostile(name), other])


def both(name: str):
    return matrices([Entry(hostile(name), {}), Entry(hostile(name, "zero_shot"), {})])


class Elements(HTMLParser):
    """Names of elements and attributes, and the texts inside <bdi>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.attributes, self.links, self.apart, self.depth = set[str](), set[str](), set[str](), list[str](), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {key for key, _ in attrs}
        self.links |= {value or "" for key, value in attrs if key in ("href", "src")}
        self.depth += tag == "bdi"

    def handle_endtag(self, tag):
        self.depth -= tag == "bdi"

    def handle_data(self, data):
        if self.depth:
            self.apart.append(data)


def harmless(text: str) -> Elements:
    assert not SIGNS.search(text)
    found = Elements(text)
    assert not found.elements & {"script", "a", "iframe", "object", "link", "base", "form"}
    assert not {key for key in found.attributes if key.startswith("on")}
    assert all(link.startswith("data:image/") for link in found.links)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_pages_show_a_name_and_nothing_in_it_acts(name):
    shown = RunView(hostile(name), panels=(panel(label=name, before=name, after="b", attack=name),))
    whole = page([shown, RunView(hostile(name, "zero_shot"))], title=name, notes=[name])
    assert escapes.visible(name).split("\n")[0] in "".join(harmless(whole).apart)
    photo = Photo(name, ((name, 0.5), ("b", 0.5)), (), (), 0, True)
    assert escapes.visible(name).split("\n")[0] in "".join(harmless(photos_page([photo], title=name, notes=[name])).apart)
    harmless(matrix_page(both(name), title=name))


class Isolated(HTMLParser):
    """The texts with letters that run from right to left which no <bdi> holds; a title and an option can hold none."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.loose = list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if re.search("[\u0590-\u08ff]", data) and not {"bdi", "title", "option", "style", "text", "pre", "code"} & set(self.open):
            self.loose.append(data.strip())


def test_a_name_that_runs_from_right_to_left_turns_nothing_around():
    name = "\u05e9\u05dc\u05d5\u05dd 1"
    shown = RunView(hostile(name), panels=(panel(label=name, before=name, after="b", attack=name),))
    photo = Photo(name, ((name, 0.5), ("b", 0.5)), (), (), 0, True)
    listed = lines([Measured(hostile(name, name, command=name)), Measured(hostile(name, name, knowledge="static"))])
    pages = [
        page([shown, RunView(hostile(name, "zero_shot"))], title=name, notes=[name]),
        photos_page([photo], title=name, notes=[name]),
        matrix_page(both(name), title=name),
        site(listed, title=name, notes=[name])["index.html"],
    ]
    for each in pages:
        assert name in each
        assert Isolated(each).loose == []


@pytest.mark.parametrize("name", NAMES)
def test_a_leaderboard_links_to_its_own_files_and_shows_a_name_as_text(name):
    listed = lines([Measured(hostile(name, name, command=name)), Measured(hostile(name, name, knowledge="static"))])
    files = site(listed, title=name, notes=[name])
    text = files.pop("index.html")
    assert not SIGNS.search(text)
    found = Elements(text)
    assert not found.elements & {"script", "iframe", "object", "link", "base", "form", "img", "svg"}
    assert not {key for key in found.attributes if key.startswith("on")}
    assert found.links == set(files)
    assert all(re.fullmatch(r"(records|robustbench)/[A-Za-z0-9_.+-]+\.json", file) and "/." not in file for file in files)
    assert escapes.visible(name).split("\n")[0] in "".join(found.apart)


@pytest.mark.parametrize("name", NAMES)
def test_markdown_holds_no_mark_link_or_element_of_a_name(name):
    reader = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table")
    text = markdown(table(name))
    assert not SIGNS.search(text)
    found = Elements(reader.render(text))
    assert found.elements <= {"table", "thead", "tbody", "tr", "th", "td", "p", "strong", "ins"}
    bodies = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in bodies}) == 1
    assert not re.search(r"(?i)https?://|www\.|mailto:|\w@\w", text)  # what GitHub makes links of


@pytest.mark.parametrize("name", NAMES)
def test_a_model_card_holds_no_mark_link_or_element_of_a_name(name):
    facts = Facts(
        method=name, classes=(name, "b"), templates=(name,), backbone=BackboneFacts(name=name), resolution=64, preprocessing="x",
        measured=(measured(hostile(name)),),
    )  # fmt: skip
    text = card(facts, [hostile(name)], name)
    assert not SIGNS.search(text)
    body = text.partition("\n---\n")[2]
    found = Elements(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))
    assert found.elements <= {
        "h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong", "ins", "blockquote",
    }  # fmt: skip
    assert "blockquote" not in found.elements
    outside = re.sub(r"```.*?\n```|`[^`\n]*`", "", body, flags=re.S)
    assert not re.search(r"(?i)https?://|www\.|mailto:|\w@\w", outside)


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_of_a_csv_is_a_formula(name):
    for text in (as_csv(table(name)), long(both(name))):
        head, *lines = csv.reader(io.StringIO(text))
        assert lines
        assert {len(line) for line in lines} == {len(head)}
        cells = [cell for line in lines for cell in line]
        assert not [cell for cell in cells if cell.lstrip()[:1] in tuple("=+-@\t\r\uff1d") and cell and not _number(cell)]
        assert not SIGNS.search(text)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


COMMANDS = re.compile(
    r"\\(begin|end|centering|caption|label|toprule|midrule|bottomrule|textbf|underline|scriptsize|text\w+(?=\{\}))|\\[\\&%$#_{}]"
)


@pytest.mark.parametrize("name", NAMES)
def test_latex_holds_no_command_of_a_name(name):
    text = latex(table(name))
    assert not SIGNS.search(text)
    left = COMMANDS.sub("", text.replace(r"$\leq$", ""))
    assert not re.search(r"[\\%$#_^~]", left)
    assert left.count("{") == left.count("}")
    assert not re.search(r"\\\\\s*[\[*]", text)
    bodies = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in bodies}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_shows_a_name_and_is_not_moved_by_it(name):
    stream = io.StringIO()
    Console(file=stream, width=400, color_system=None).print(terminal(table(name)))
    assert not SIGNS.search(stream.getvalue())
    assert as_json(table(name)).isascii()


def test_numbers_and_plain_names_stay_as_they_are():
    assert list(escapes.cells(["-0.5", -0.5, "+1e-3", "tabby cat", None, "Sch\u00e4ferhund"])) == [
        "-0.5", -0.5, "+1e-3", "tabby cat", None, "Sch\u00e4ferhund",
    ]  # fmt: skip
    assert escapes.markdown("tabby cat, 12.5 %") == "tabby cat, 12.5 %"
