"""What the default attack `standard-fast` finds of what the whole AutoAttack finds, and at which cost in passes.

python -m benchmarks.standard_fast runs/nap runs/tecoa mini-robust --data eurosat --eps 2/255 --limit 40

Each target is a run, or a backbone (zero-shot). Cost: images that went forward or backward through the image tower, counted
while the attacks ran. `pgd-ce 100` is one loss with five times the steps, for comparison. AutoAttack on 40 images of `mini`
takes tens of minutes on a core; what is finished is kept in --out and not run again.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironclip.attacks import build
from ironclip.backbones.counting import counted
from ironclip.core.errors import IronclipError
from ironclip.core.files import write_json
from ironclip.core.threat import Threat, format_eps, parse_eps
from ironclip.core.types import Attack
from ironclip.data import EvalSet
from ironclip.loops.evaluation import evaluate
from ironclip.protocols.resolve import named_attacks, open_target

WHOLE, FAST = "autoattack", "standard-fast"


@dataclass(frozen=True)
class Found:
    """What a set of attacks left of the images: those right at first, those broken, and the passes that took."""

    right: frozenset[int]
    broken: frozenset[int]
    passes: int
    images: int


def sets(eps: float, steps: int = 100, queries: int = 5000) -> dict[str, dict[str, Attack]]:
    """The attacks that are compared, by name; `steps` and `queries` of AutoAttack other than its own are for tests."""
    return {
        WHOLE: named_attacks([WHOLE], eps, 0, [f"steps={steps}", f"queries={queries}"]),
        FAST: named_attacks([FAST], eps, 0),
        "pgd-ce 100": {"pgd": build("pgd", eps=eps, steps=steps, mode="compact")},
    }


def measured(experiment: Any, attacks: dict[str, Attack], eps: float, limit: int | None) -> Found:
    """One set of attacks on the test images of an experiment, its members in turn."""
    side = experiment.backbone.spec.resolution
    pictures = EvalSet(experiment.dataset, "test", resolution=side, limit=limit)
    with counted(experiment.backbone) as passes:
        batches = pictures.batches(40)
        samples = evaluate(experiment.classifier, attacks, batches, Threat(eps=eps, resolution=side), probe=False).samples
    right = frozenset(sample.index for sample in samples if sample.right)
    broken = frozenset(sample.index for sample in samples if sample.right and not sample.robust)
    return Found(right, broken, passes.forward + passes.backward, len(samples))


def line(name: str, found: dict[str, Found]) -> str:
    """A row of the table: of each set the robust accuracy, then what the fast one finds of the whole one, and the passes."""
    whole, fast = found[WHOLE], found[FAST]
    accuracy = [f"{100 * len(found[key].right - found[key].broken) / whole.images:.1f}" for key in found]
    share = f"{len(fast.broken & whole.broken)} of {len(whole.broken)}"
    cells = [name, str(whole.images), f"{100 * len(whole.right) / whole.images:.1f}", *accuracy, share]
    cells += [str(len(fast.broken - whole.broken)), f"{whole.passes:,}", f"{fast.passes:,}", f"{whole.passes / fast.passes:.1f}"]
    return f"| {' | '.join(cells)} |"


def table(rows: Iterable[tuple[str, dict[str, Found]]]) -> str:
    """The rows, and below them the sums over all of them."""
    rows = list(rows)
    names = list(rows[0][1])
    head = ["target", "n", "clean", *names, "found", "found besides", f"passes {WHOLE}", f"passes {FAST}", "ratio"]
    together = [{key: found[key] for key in (WHOLE, FAST)} for _, found in rows]
    shared = sum(len(found[WHOLE].broken & found[FAST].broken) for found in together)
    broken = sum(len(found[WHOLE].broken) for found in together)
    spent = [sum(found[key].passes for found in together) for key in (WHOLE, FAST)]
    said = f"together: {shared} of {broken} ({shared / max(broken, 1):.1%}) at 1/{spent[0] / max(spent[1], 1):.1f} of the passes"
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(line(name, found) for name, found in rows)]
    return "\n".join([*lines, "", said])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="+", help="runs or backbones")
    parser.add_argument("--data", default="eurosat", help="for backbones")
    parser.add_argument("--eps", default="2/255")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--steps", type=int, default=100, help="of AutoAttack; other than 100 for tests")
    parser.add_argument("--queries", type=int, default=5000, help="of AutoAttack; other than 5000 for tests")
    parser.add_argument("--out", type=Path, default=Path("runs/standard-fast"), help="folder of what is finished")
    options = parser.parse_args(argv)
    try:
        print(table(compared(options)))
    except IronclipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compared(options: argparse.Namespace) -> Iterable[tuple[str, dict[str, Found]]]:
    """Every target under every set of attacks, run or read where it is finished."""
    eps = parse_eps(options.eps)
    for target in options.targets:
        run, experiment = open_target(target, None if Path(target).exists() else options.data, device="cpu")
        found = {}
        for key, attacks in sets(eps, options.steps, options.queries).items():
            size = f"{options.limit}-{options.steps}-{options.queries}"
            file = options.out / f"{run.path.name}-{format_eps(eps).replace('/', '-')}-{size}-{key.replace(' ', '-')}.json"
            if not file.is_file():
                one = measured(experiment, attacks, eps, options.limit)
                facts = {"right": sorted(one.right), "broken": sorted(one.broken), "passes": one.passes, "images": one.images}
                write_json(file, facts)
            told = json.loads(file.read_text(encoding="utf-8"))
            found[key] = Found(frozenset(told["right"]), frozenset(told["broken"]), told["passes"], told["images"])
        yield f"{experiment.config.method} on {experiment.backbone.spec.name}", found


if __name__ == "__main__":
    sys.exit(main())
