"""CAPT's open question: how the weight alpha moves while it trains, from the logs of finished runs as one figure.

python -m benchmarks.alpha_trace runs/prompts --svg docs/images/capt-alpha.svg
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ironclip.core.files import write_text
from ironclip.presets import preset
from ironclip.records.folder import RunFolder
from ironclip.report.svg import Series, Tick, alone, chart


def traces(folder: Path) -> list[Series]:
    """Mean alpha by epoch of the runs of CAPT with its quick preset, first seed; one line for each data set and backbone.

    Runs with fewer epochs than the longest are left out.
    """
    plain = preset("capt/quick")["options"]
    lines = []
    for path in sorted(path for path in folder.iterdir() if (path / "config.yaml").is_file()):
        run = RunFolder.open(path)
        config = run.config
        if (config["method"], config["seed"]) == ("capt", 1) and config["options"] == plain:
            epochs = [entry for entry in run.entries() if entry["event"] == "epoch"]
            points = tuple((float(entry["epoch"]), float(entry["diagnostics"]["alpha_cons"])) for entry in epochs)
            lines.append(Series(f"{config['dataset']}, {config['backbone']}", points))
    longest = max((len(line.points) for line in lines), default=0)
    return [line for line in lines if len(line.points) == longest]


def figure(lines: Sequence[Series]) -> str:
    """One SVG that stands alone. The vertical axis starts at 0.3."""
    last = max(int(x) for line in lines for x, _ in line.points)
    drawn = chart(
        lines,
        x_ticks=[Tick(float(epoch), str(epoch)) for epoch in range(1, last + 1)],
        y_ticks=[Tick(step / 20, f"{step / 20:.2f}") for step in range(6, 13)],
        x_range=(1.0, float(last)),
        x_label="Epoch",
        y_label="Mean alpha (weight of the frozen model)",
        title="CAPT's adaptive weight over training",
    )
    return alone([drawn])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--svg", type=Path, required=True)
    options = parser.parse_args(argv)
    lines = traces(options.folder)
    if not lines:
        print(f"error: no run of capt with its quick preset and seed 1 in {options.folder}", file=sys.stderr)
        return 2
    write_text(options.svg, figure(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
