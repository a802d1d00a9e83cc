"""Does a defence that was trained for classes protect image-text retrieval? Recall of several runs on the same captions.

python -m benchmarks.retrieval_table mini runs/nap runs/tecoa --data shapes --eps 2/255 --csv docs/results/retrieval.csv

Each target is a run, or a backbone (zero-shot); `--data` is a data set with captions, or a folder of them. A line of the file is
one target under one attack by one measure, in whole counts. A defence of class prompts alone has no towers of its own to measure:
its line in the terminal says so.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from ironclip.core.errors import IronclipError, UsageError
from ironclip.core.threat import format_eps, parse_eps
from ironclip.protocols.retrieval import opened, retrieval, towers_of

HEAD = ("method", "trained at", "data", "eps", "attack", "measure", "found", "of")


def lines(target: str, data: str, eps: float, steps: int = 10, limit: int | None = None) -> Iterator[tuple[str, ...]]:
    """The lines of one target, as `HEAD`.

    Raises:
        UsageError: its defence changes no tower.
    """
    experiment, captioned = opened(target, data, "test")
    config = experiment.config
    trained = "" if config.method == "zero_shot" else format_eps(config.eps)
    for under in retrieval(towers_of(experiment), captioned, eps=eps, steps=steps, limit=limit):
        for measure, part in under.recall.items():
            facts = (config.method, trained, captioned.dataset.name, format_eps(eps), under.attack, measure)
            yield (*facts, str(part.count), str(part.of))


def main(argv: list[str] | None = None) -> int:
    """Measure every target; 2 where none could be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", help="runs, or backbones")
    parser.add_argument("--data", default="shapes", help="a data set with captions, or a folder of images and captions")
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--csv", type=Path, required=True)
    options = parser.parse_args(argv)
    rows: list[tuple[str, ...]] = []
    try:
        for target in options.targets:
            try:
                rows += lines(target, options.data, parse_eps(options.eps), options.steps, options.limit)
            except UsageError as refused:
                print(f"{target}: {refused}", file=sys.stderr)
    except IronclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rows:
        with options.csv.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([HEAD, *rows])
    return 0 if rows else 2


if __name__ == "__main__":
    sys.exit(main())
