"""Audits the zoo; prints misses and false alarms: `python -m zoo [masked|heldout|honest|trained ..] [--images N] [--steps N]`."""

import argparse

from zoo.audit import CHEAP_FIRST, WITHOUT_AUTOATTACK, zoo
from zoo.base import make_bench
from zoo.heldout import HELDOUT
from zoo.honest import HONEST
from zoo.masked import MASKED
from zoo.trained import TRAINED, larger_pictures

GROUPS = {"masked": MASKED, "heldout": HELDOUT, "honest": HONEST, "trained": TRAINED}
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("groups", nargs="*", default=list(GROUPS))
parser.add_argument("--images", type=int, default=256, help="as the default of `ironclip audit --diagnostics`")
parser.add_argument("--steps", type=int, default=100, help="as the default of `ironclip audit --steps`")
parser.add_argument("--without-autoattack", action="store_true", help="only the checks that make no use of AutoAttack")
chosen = parser.parse_args()
checks = WITHOUT_AUTOATTACK if chosen.without_autoattack else CHEAP_FIRST
bench = make_bench(chosen.images, chosen.steps)
for group in chosen.groups:
    masked = group in ("masked", "heldout")
    missed, failed, warned, kinds = [], [], [], GROUPS[group]
    for seen in zoo(kinds, larger_pictures(bench) if group == "trained" else bench, stop=masked, checks=checks):
        print(f"{group}: {seen}", flush=True)
        missed += [] if seen.flagged else [seen.name]
        failed += [seen.name] if seen.fails or seen.refused else []
        warned += [seen.name] if seen.warns else []
    if masked:
        print(f"== {group}: {len(missed)} of {len(kinds)} missed: {'; '.join(missed)}", flush=True)
    else:
        print(f"== {group}: {len(failed)} of {len(kinds)} failed: {'; '.join(failed)}; {len(warned)} warned: {'; '.join(warned)}")
