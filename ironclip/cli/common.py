"""What all commands share: the app, options, printing, the device, progress."""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ironclip.cli.terminal import err, say, tell
from ironclip.core.devices import pick_device as pick_device  # every verb takes it from here
from ironclip.core.errors import UsageError
from ironclip.core.processes import check_workers
from ironclip.core.shown import plain

T = TypeVar("T", str, Path)
app = typer.Typer(
    name="ironclip",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Data = Annotated[
    str,
    typer.Option("--data", help="A data set's name, or a folder with one subfolder per class, a CSV, a CoOp folder, shards."),
]
Backbone = Annotated[str, typer.Option("--backbone", help="mini, mini-robust, ViT-B-32/openai, hf-hub:..., or a file.")]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights", help="The backbone's weights: a file, a folder, a tag, hf-hub:...; for a run: where its file lies now."
    ),
]
Base = Annotated[
    str | None, typer.Option("--base", help="Backbone that gives the text tower where the weights are an image tower alone.")
]
Activation = Annotated[
    str | None, typer.Option("--activation", help="gelu or quick_gelu, where the weights do not say how they were trained.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Open a .pt2, which is code: only if you trust who wrote it.")]
Classes = Annotated[Path | None, typer.Option("--classes", help="File with class names: one per line, folder<TAB>name, or JSON.")]
Layout = Annotated[
    str,
    typer.Option(
        "--layout",
        help="What folders mean where that is not clear: classes, splits, class/split, or NAME=train,NAME=test,NAME=skip.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Images to use, classes in proportion; default: all.")]
Eps = Annotated[
    str | None,
    typer.Option("--eps", help="Radii such as 4/255, separated by commas; default: 4/255 for linf, none for l2."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="k/n: every n-th batch of images from the k-th on; any/n: shares that are not taken yet. The last one merges.",
    ),
]
WorkersOption = Annotated[int, typer.Option("--workers", help="Processes that share the images; on GPUs one per device.")]
Norm = Annotated[str, typer.Option("--norm", help="linf; l2, l1: radii such as 0.5, 12; patch, text: a share of the area.")]


BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size", help="Images at once: auto (as many as the device holds), or a number, which is taken or refused."
    ),
]


def images_at_once(text: str) -> int | None:
    """The number of --batch-size; None for auto."""
    if text == "auto":
        return None
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size is auto or a number of images, at least 1; got {text!r}")
    return int(text)


def _version(asked: bool) -> None:
    if asked:
        from ironclip.core.version import __version__

        say(f"ironclip {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Adapt CLIP-like models from few images, make them robust against adversarial images, and prove it."""


def emit(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=1, sort_keys=True))


def print_notes(notes: Iterable[str], *, quiet: bool = False) -> None:
    """Print the notes about the data, one per line, on standard error."""
    for note in () if quiet else notes:
        tell(f"note: {note}")


def took(target: T, *, quiet: bool = False) -> T:
    """The run that `runs/last` points to, printed on standard error; any other target as it is."""
    from ironclip.records.last import named

    found = named(Path(target))
    if found == Path(target):
        return target
    if not quiet:
        tell(f"run: {found}")
    return type(target)(found)


def run_paths(targets: list[Path]) -> list[Path]:
    """The runs named: each target is a run, or a folder of runs."""
    found: list[Path] = []
    for target in map(took, targets):
        inside = sorted(path.parent for path in target.glob("*/config.yaml")) if target.is_dir() else []
        found += inside if inside and not (target / "config.yaml").exists() else [target]
    return found


def shared_out(shard: str | None, workers: int, *alone: str) -> Any:
    """The share that --shard asks for, or None.

    Args:
        alone: options in use that cannot be combined with --shard or --workers.

    Raises:
        UsageError: not a share, a number of workers that cannot be meant, both options, or one of `alone` with --shard.
    """
    from ironclip.records.share import Share

    share = None if shard is None else Share.parse(shard)
    check_workers(workers)
    if share is not None and workers > 1:
        raise UsageError("--shard is one part of the work, --workers all of it; leave one of them out")
    if share is not None and alone:
        raise UsageError(
            f"{' and '.join(alone)} looks at all images; merge the shards, then give the same command without --shard"
        )
    return share


def repeated(typed: str, taken: str) -> list[str]:
    """The words of this command, with `runs/last` replaced by the run that it pointed to at the start."""
    words = sys.argv[1:]
    words[words.index(typed)] = taken
    return words


def print_left(left: Iterable[Any], folder: Path) -> None:
    """Print the shards that are missing for a record."""
    names = ", ".join(str(shard) for shard in left)
    say(f"shard done; no record yet, for these are not finished: {names}; folder: {folder}")


def print_record(record: Any) -> None:
    """Print a record in one line, and its flags below."""
    say(str(record))
    for name, moved in record.diagnostics.get("distortion", {}).items():
        parts = ", ".join(f"{what.replace('_', ' ')} {value:.4g}" for what, value in moved.items())
        say(f"  features under {name}: {parts}")
    for rule, reached in record.diagnostics.get("targeted", {}).items():
        for name, found in reached.items():
            share = "{value:.1%} [{low:.1%}, {high:.1%}]".format(**found["success"])
            say(f"  targeted success of {name}, rule {rule}: {share} of {found['attacked']} images")
    for flag in record.flags:
        say(f"  {flag.level}: {flag.text}")


class Progress:
    """Shows events of training and evaluation: one line that is rewritten on a terminal, a few lines elsewhere."""

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self.label, self.quiet = label, quiet
        self.start = self.last = time.monotonic()
        self.first: float | None = None
        self.live = sys.stderr.isatty()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind in ("step", "epoch"):
            final = kind == "epoch" and event["epoch"] == event["epochs"]
            self.say(self._training(event, time.monotonic()), final)
        elif kind == "batch":
            self.say(self._evaluation(event), event["done"] == event["total"])

    def count(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now
        left = f"  {clock((total - done) * (now - self.start) / (done - self.first))} left" if done > self.first else ""
        self.say(f"{done}/{total}{left}", done == total)

    def say(self, text: str, final: bool) -> None:
        now = time.monotonic()
        if self.quiet or (not final and now - self.last < (0.2 if self.live else 15)):
            return
        self.last = now
        text = plain(f"{self.label}: {text}")
        if self.live:
            sys.stderr.write("\r\x1b[2K" + text[: err.width - 1] + ("\n" if final else ""))
            sys.stderr.flush()
        else:
            print(text, file=sys.stderr, flush=True)

    def _training(self, event: dict[str, Any], now: float) -> str:
        epochs, steps = event["epochs"], event.get("steps", 1)
        done = event["epoch"] - 1 + event.get("step", steps) / steps
        if self.first is None:
            self.first = done - 1 / steps
        left = (epochs - done) * (now - self.start) / max(done - self.first, 1e-9)
        terms = "  ".join(f"{name} {value:.3f}" for name, value in event["terms"].items())
        return f"epoch {event['epoch']}/{epochs}  {terms}  lr {event['lr']:.2g}  {clock(left)} left"

    def _evaluation(self, event: dict[str, Any]) -> str:
        left = "" if event["eta"] is None else f"  {clock(event['eta'])} left"
        return f"{event['done']}/{event['total']}  clean {event['clean']:.1%}  robust {event['robust']:.1%}{left}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
