"""Which optimiser and rate each quick preset should have: the same number of tries for every method, on validation images.

IRONCLIP_DATA=sets python -m benchmarks.preset_search --log search.jsonl --csv docs/results/preset-search.csv

The line of tries of a method is its preset with another optimiser and rate, nothing else. A try is trained at --eps on few
shots and measured on images that are neither among them nor in the test split: the `val` split, or, where a set has none,
training images that were not drawn. An image counts as robust where PGD on the cross-entropy and PGD on the margin both fail.
The choice, fixed before the first try: the largest mean over the sets of H, the harmonic mean of clean and robust accuracy; a tie
goes to the earlier try. What is finished stays in --log and is not run again.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ironclip.attacks import build
from ironclip.backbones.loading import load
from ironclip.core.errors import IronclipError, NonFinite, UsageError
from ironclip.core.files import write_text
from ironclip.core.threat import format_eps, parse_eps
from ironclip.core.types import Classifier
from ironclip.data import Dataset, EvalSet, few_shot, open_dataset
from ironclip.protocols.experiment import open_experiment
from ironclip.protocols.few_shot import train
from ironclip.protocols.resolve import resolve

PROMPTS = (("sgd", 0.01), ("sgd", 0.03), ("sgd", 0.1), ("adamw", 0.001), ("adamw", 0.003), ("adamw", 0.01))
TOWER = (("sgd", 0.001), ("sgd", 0.01), ("adamw", 0.00003), ("adamw", 0.0001), ("adamw", 0.0003), ("adamw", 0.001))
LORA = (("sgd", 0.1), ("adamw", 0.0005), ("adamw", 0.002), ("adamw", 0.005), ("adamw", 0.01), ("adamw", 0.02))
MASKS = (("sgd", 0.01), ("sgd", 0.1), ("adamw", 0.0001), ("adamw", 0.00025), ("adamw", 0.0005), ("adamw", 0.001))
LINES = {
    "nap": (("sgd", 0.01), ("sgd", 0.03), ("adamw", 0.0003), ("adamw", 0.001), ("adamw", 0.003), ("adamw", 0.01)),
    "apt": PROMPTS,
    "fap": PROMPTS,
    "advmask": MASKS,
    "capt": PROMPTS,
    "defeat": PROMPTS,
    "tecoa": TOWER,
    "apd": PROMPTS,
    "advpt": PROMPTS,
    "advvlp": PROMPTS,
    "advmaple": PROMPTS,
    "adv_vpt": PROMPTS,
    "fare": TOWER,
    "pmg_aft": TOWER,
    "tga_zsr": TOWER,
    "agft": TOWER,
    "simclip": TOWER,
    "comp_tga": TOWER,
    "advflyp": TOWER,
    "qt_aft": TOWER,
    "saft": TOWER,
    "advclip_lora": LORA,
    "adapt": (("sgd", 0.01), ("sgd", 0.05), ("sgd", 0.2), ("adamw", 0.001), ("adamw", 0.003), ("adamw", 0.01)),
    "paft": (("sgd", 0.1), ("sgd", 1.0), ("sgd", 5.0), ("adamw", 0.001), ("adamw", 0.01), ("adamw", 0.1)),
    "avp_pixel": (("sgd", 1.0), ("sgd", 10.0), ("sgd", 40.0), ("adamw", 0.003), ("adamw", 0.01), ("adamw", 0.03)),
}
COLUMNS = ("method", "data", "optimizer", "lr", "eps", "shots", "batch_size", "epochs", "clean", "robust", "images", "flags")


@dataclass(frozen=True)
class Size:
    """What a try costs: shots per class, batch, images measured, radius."""

    shots: int = 8
    batch_size: int = 16
    images: int = 80
    eps: float = 2 / 255
    steps: int = 20


def tries(methods: Sequence[str], sets: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every try by set, then method, then place in the line."""
    for data in sets:
        for method in methods:
            for optimizer, lr in LINES[method]:
                yield {"method": method, "data": data, "optimizer": optimizer, "lr": lr}


def held_out(name: str, shots: int, seed: int) -> Dataset:
    """The set with its `val` split whole, or made of the training images that `few_shot` does not draw."""
    whole = open_dataset(name)
    if whole.splits["val"]:
        return whole
    drawn = set(few_shot(whole, shots, seed).splits["train"])
    rest = tuple(item for item in whole.splits["train"] if item not in drawn)
    return whole.changed(splits={**whole.splits, "val": rest})


def measured(classifier: Classifier, images: Tensor, labels: Tensor, size: Size) -> tuple[int, int]:
    """How many images are right, and how many stay right under both losses."""
    right = classifier(images).argmax(1) == labels
    left = right.clone()
    for loss in ("ce", "margin"):
        attack = build("pgd", eps=size.eps, steps=size.steps, loss=loss, mode="compact")
        rows = left.nonzero().flatten()
        if len(rows):
            left[rows] = classifier(attack(classifier, images[rows], labels[rows], indices=rows)).argmax(1) == labels[rows]
    return int(right.sum()), int(left.sum())


def run(one: dict[str, Any], size: Size, backbone: Any) -> dict[str, Any]:
    """A row of the table: the try, trained and measured."""
    changes = [f"optimizer={one['optimizer']}", f"lr={one['lr']}", f"batch_size={size.batch_size}"]
    given = {"eps": size.eps, "shots": size.shots}
    config = resolve(one["method"], one["data"], preset=f"{one['method']}/quick", given=given, changes=changes)
    dataset = held_out(one["data"], size.shots, config.split_seed)
    pictures = EvalSet(dataset, "val", resolution=backbone.spec.resolution, limit=size.images).batch(slice(None))
    start = time.process_time()
    experiment = open_experiment(config, backbone=backbone, dataset=few_shot(dataset, size.shots, config.split_seed))
    with tempfile.TemporaryDirectory() as folder:
        try:
            trained = train(config, root=Path(folder), experiment=experiment)
            flags = next((entry["flags"] for entry in reversed(trained.entries()) if "flags" in entry), [])
            clean, robust = measured(experiment.classifier, pictures.images, pictures.labels, size)
        except NonFinite:
            flags, clean, robust = ["diverged"], 0, 0
        except UsageError:
            flags, clean, robust = ["nothing learned"], 0, 0
    schedule = config.schedule
    return {
        **one,
        "eps": format_eps(size.eps),
        "shots": size.shots,
        "batch_size": schedule.batch_size,
        "epochs": schedule.epochs,
        "clean": clean,
        "robust": robust,
        "images": len(pictures),
        "flags": " ".join(flags),
        "seconds": round(time.process_time() - start, 1),
    }


def harmonic(row: dict[str, Any]) -> float:
    """H of clean and robust accuracy; 0 where both are."""
    clean, robust = row["clean"] / row["images"], row["robust"] / row["images"]
    return 2 * clean * robust / (clean + robust) if robust else 0.0


def chosen(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[str, float, float]]:
    """Method -> (optimiser, rate, mean H) of its best try, among those measured on every set the method was measured on."""
    found: dict[str, dict[tuple[str, float], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["method"]][row["optimizer"], row["lr"]].append(harmonic(row))
    best = {}
    for method, line in found.items():
        most = max(map(len, line.values()))
        complete = {key: sum(values) / most for key, values in line.items() if len(values) == most}
        (optimizer, lr), value = max(complete.items(), key=lambda entry: entry[1])
        best[method] = optimizer, lr, value
    return best


def table(rows: Sequence[dict[str, Any]]) -> str:
    """CSV of the rows."""
    lines = [",".join(COLUMNS), *(",".join(str(row[column]) for column in COLUMNS) for row in rows)]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default=",".join(LINES), help="comma-separated; default: all, in order of interest")
    parser.add_argument("--data", default="eurosat,flowers5", help="comma-separated sets")
    parser.add_argument("--backbone", default="mini")
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--log", type=Path, required=True, help="JSON lines; finished tries are read from it")
    parser.add_argument("--csv", type=Path, help="write the table there")
    options = parser.parse_args(argv)
    try:
        rows = [json.loads(line) for line in options.log.read_text().splitlines()] if options.log.is_file() else []
        size = replace(Size(), eps=parse_eps(options.eps))
        done = {tuple(row[key] for key in ("method", "data", "optimizer", "lr", "eps")) for row in rows}
        backbone = load(options.backbone)
        for one in tries(options.methods.split(","), options.data.split(",")):
            if (*one.values(), format_eps(size.eps)) not in done:
                rows.append(run(one, size, backbone))
                with options.log.open("a") as log:
                    log.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
        if options.csv:
            write_text(options.csv, table(rows))
    except IronclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for method, (optimizer, lr, value) in chosen(rows).items():
        print(f"{method}: {optimizer} {lr:g}, mean H {100 * value:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
