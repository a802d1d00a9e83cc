"""Pages of the reference that are read off the code when the site is built: nothing in them is typed by hand.

`PAGES` maps the address of a page to the function that writes it. MkDocs calls `on_files`.
"""

import ast
import dataclasses
import importlib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SHARED = {
    "eps": "radius in the unit of the images.",
    "step_size": "of each step; None: a quarter of eps.",
    "steps": "steps of each run.",
    "restarts": "runs from fresh starts.",
    "start": "where a run begins: uniform in the ball, or zero.",
    "random_start": "begin at a random point of the ball.",
    "keep": "which image of a run counts: the best or the last.",
    "loss": "what is ascended, such as ce or margin.",
    "targeted": "the labels are those to be reached.",
    "norm": "linf, or l2 with radii such as 0.5.",
    "mode": "compact: an image that is misclassified is attacked no further; full: every image, every step.",
    "eval_mode": "run a module in eval mode; False keeps the caller's mode.",
    "seed": "with the index of the image, the key of its random numbers.",
}
"""Options of attacks that mean the same in each; a class says more where there is more to say."""
PACKAGE = Path(__file__).resolve().parents[1] / "ironclip"


def command_line() -> str:
    """Every verb with its arguments and options, as `--help` says them."""
    from typer.main import get_command

    from ironclip.cli import app

    parts = ["# Command line", "Read off the program. `ironclip VERB --help` shows the same.\n"]
    for path, command in verbs(get_command(app), ("ironclip",)):
        rows = [[", ".join(f"`{name}`" for name in names(option)), text(option), default(option)] for option in command.params]
        parts += [f"## {' '.join(path)}", (command.help or "").strip(), table(["", "meaning", "default"], rows)]
    return "\n\n".join(parts) + "\n"


def verbs(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command that does something."""
    inside = getattr(command, "commands", None)
    if inside is None:
        yield path, command
        return
    for name in sorted(inside):
        yield from verbs(inside[name], (*path, name))


def names(option: Any) -> list[str]:
    return list(option.opts) if option.param_type_name == "option" else [option.name.upper()]


def text(option: Any) -> str:
    return " ".join((getattr(option, "help", None) or "").split()).replace("<", "&lt;")


def default(option: Any) -> str:
    value = option.default
    if callable(value) or value in (None, False, (), []) or type(value).__name__ == "Sentinel":
        return "required" if option.required else ""
    return f"`{value}`"


def method_options() -> str:
    """Every option of every method with its default and, where its file says so, its meaning."""
    from ironclip import defenses, testtime
    from ironclip.catalogue import methods

    parts = [
        "# Options of the methods",
        "Set with `--set name=value`, or as keyword arguments of `ironclip.fit` and `ironclip.test_time`. The cards say which "
        "value a paper states and which one its code has.",
    ]
    for name, line in methods().items():
        room = defenses if name in defenses.NAMES else testtime
        kind, found = room.method(name), room.options(name)
        said = arguments_of(kind)
        rows = [[f"`{option}`", said.get(option, ""), f"`{value!r}`"] for option, value in found.items()]
        kinds = "trained" if room is defenses else "test time"
        parts += [f"## {name}", f"{line} ({kinds})", table(["option", "meaning", "default"], rows) if rows else "No options."]
    return "\n\n".join(parts) + "\n"


def attack_options() -> str:
    """Every option of every attack."""
    from ironclip import attacks

    parts = ["# Options of the attacks", "Set with `--set name=value`, or as arguments of the class in `ironclip.attacks`."]
    for name, entry in attacks.CATALOGUE.items():
        found = attacks.kind(name)
        said = {**SHARED, **arguments_of(found)}
        rows = [[f"`{field.name}`", said.get(field.name, ""), initial(field)] for field in dataclasses.fields(found)]
        parts += [f"## {name}", f"`{entry.kind}`: {entry.line}", table(["option", "meaning", "default"], rows)]
    return "\n\n".join(parts) + "\n"


def initial(field: Any) -> str:
    return "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"


def record_fields() -> str:
    """Every field of a record and of a sample."""
    from ironclip.records import record

    kinds = (
        "Record",
        "Setup",
        "Sample",
        "Proportion",
        "AttackResult",
        "ClassResult",
        "BackboneFacts",
        "DataFacts",
        "Cost",
        "Timing",
        "Flag",
        "Looks",
    )
    parts = [
        "# Fields of a record",
        "`record.json` in a run folder is a `Record`; each line of `samples.jsonl` is a `Sample`. `ironclip show RUN --json` "
        "prints the record, `result.records` in Python holds it. [Runs and records](../runs.md) says how the files are written.",
    ]
    for name in kinds:
        kind = getattr(record, name)
        said = arguments_of(kind)
        own = [field for field in kind.model_fields if name != "Record" or field not in record.Setup.model_fields]
        rows = [[f"`{field}`", f"`{shown(kind.model_fields[field].annotation)}`", said.get(field, "")] for field in own]
        head = f"{first(kind)}{' Besides these it has all fields of `Setup`.' if name == 'Record' else ''}"
        parts += [f"## {name}", head, table(["field", "type", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def shown(annotation: Any) -> str:
    """A type in few words."""
    written = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    return re.sub(r"\b[a-z_]+(\.[a-z_]+)*\.(?=[A-Za-z])", "", written)


def first(kind: Any) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def arguments_of(kind: Any) -> Mapping[str, str]:
    """Name -> meaning, from the `Args:` of a class's docstring, of the classes below it and of their constructors."""
    found: dict[str, str] = {}
    for each in reversed(inspect.getmro(kind)):
        for docs in (vars(each).get("__doc__"), getattr(vars(each).get("__init__"), "__doc__", None)):
            found |= arguments(inspect.cleandoc(docs or ""))
    return found


def arguments(docs: str) -> dict[str, str]:
    """The entries below `Args:`; "a, b: text" is said of both, and so is each of "a: text. b: text" on one line."""
    _, _, below = docs.partition("Args:\n")
    found: dict[str, str] = {}
    open_names: list[str] = []
    for line in below.split("\n"):
        if line and not line.startswith(" "):
            break
        entry = re.match(r"    ([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)", line)
        if entry:
            open_names = entry[1].split(", ")
            found |= dict.fromkeys(open_names, entry[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in open_names}
    for name, meaning in list(found.items()):
        pieces = re.split(r"(?<=[.;]) (?!default)([a-z_0-9]{2,}): ", meaning)
        found[name] = pieces[0]
        found |= {other: said for other, said in zip(pieces[1::2], pieces[2::2]) if other not in found}
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; a cell is one line without bars that end it."""
    lines = [
        head,
        ["---"] * len(head),
        *([str(cell).replace("|", "\\|").replace("] [", "], [").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rooms() -> str:
    """Who imports whom, as a table: rooms in the order in which they stand on one another."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("ironclip.") or module == "ironclip":
                below = [module.split(".")[1]] if "." in module else [alias.name for alias in node.names]
                found.setdefault(room, set()).update(name for name in below if (PACKAGE / name).is_dir())
    names = [name for name in found if (PACKAGE / name).is_dir()]
    order: list[str] = []
    while names:  # those that import only what stands already
        ready = sorted(name for name in names if found[name] - {name} <= {*order})
        order += ready or names
        names = [name for name in names if name not in order]
    rows = [[f"`{name}/`", ", ".join(other for other in order if other in found[name] and other != name)] for name in order]
    return table(["room", "imports"], rows)


def diagnostics() -> str:
    """The diagnostics of the audit: number, first line of its file, alarm."""
    from ironclip.audit.diagnose import CHECKS

    checks = sorted(CHECKS.values(), key=lambda check: check.number)
    rows = [[check.id, first(inspect.getmodule(check.measure)).rstrip("."), check.alarm] for check in checks]
    return table(["", "check", "alarm"], rows)


def board() -> dict[str, str]:
    """The files of our own leaderboard by address, from the records that lie in `board/records/`."""
    from ironclip.core.files import json_text
    from ironclip.records.record import Record
    from ironclip.report.leaderboard import Measured, lines, site

    stored = sorted(Path(__file__).with_name("board").glob("records/*.json"))
    listed = lines(Measured(Record.model_validate_json(path.read_text(encoding="utf-8"))) for path in stored)
    made = site(listed, title="Defences on the embedded backbone")
    texts = {name: content if isinstance(content, str) else json_text(content) for name, content in made.items()}
    return {f"board/{name}": text for name, text in texts.items() if not name.startswith("records/")}


TABLES = {"<!-- rooms -->": rooms, "<!-- diagnostics -->": diagnostics}
"""What a page writes where a table is to stand -> the function that writes the table."""
PAGES = {
    "reference/command-line.md": command_line,
    "reference/methods.md": method_options,
    "reference/attacks.md": attack_options,
    "reference/records.md": record_fields,
}


def on_startup(**_: Any) -> None:
    """Notebooks run in an empty folder and without bars, so that nothing lies beside their pages (called by MkDocs)."""
    home = Path(tempfile.mkdtemp(prefix="ipython-"))
    startup = home / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "empty_folder.py").write_text("import os, tempfile\nos.chdir(tempfile.mkdtemp())\n", encoding="utf-8")
    os.environ |= {"IPYTHONDIR": str(home), "TQDM_DISABLE": "1"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write the tables that a page asks for, and keep marks of source from being read as links (called by MkDocs)."""
    markdown = re.sub(r"\] \[(paper|code|inferred)\]", r"] \\[\1]", markdown)
    for mark, write in TABLES.items():
        if mark in markdown:
            markdown = markdown.replace(mark, write())
    return tables().included(markdown)


def tables() -> Any:
    """The package beside this file, which is none of ours to install."""
    if (home := str(Path(__file__).parent)) not in sys.path:
        sys.path.append(home)
    return importlib.import_module("doc_tables")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are read off the code (called by MkDocs)."""
    from mkdocs.structure.files import File

    texts = {address: write() for address, write in PAGES.items()} | board()
    for address, text in texts.items():
        files.append(File.generated(config, address, content=text))
    return files
