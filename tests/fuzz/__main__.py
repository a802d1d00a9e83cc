"""Random command lines and damaged images: `python -m fuzz [--lines N] [--pictures N]`; exit status 1 on any failure."""

import argparse
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fuzz import lines, pictures

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--lines", type=int, default=2000)
parser.add_argument("--pictures", type=int, default=10_000)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--log", type=Path, help="every line with its exit status")
chosen = parser.parse_args()
ends, wrong = pictures.failures(chosen.seed, chosen.pictures)
print(f"{chosen.pictures} damaged images: {dict(ends)}, {sum(wrong.values())} failures", flush=True)
for what, times in wrong.most_common():
    print(f"  {times} {what}")
statuses: Counter[int] = Counter()
log = chosen.log.open("w", encoding="utf-8", errors="backslashreplace") if chosen.log else None


def tell(number: int, arguments: list[str], status: int, how: str) -> None:
    statuses[status] += 1
    if log is not None:
        print(number, status, ascii(shlex.join(arguments)), how, file=log, flush=True)
    if how:
        print(f"FAILED {shlex.join(arguments)!a}\n{how}".encode(errors="backslashreplace").decode(), flush=True)


with tempfile.TemporaryDirectory() as place:
    lines.furnish(Path(place))
    failed = lines.failures(Path(place), chosen.seed, chosen.lines, tell=tell)
print(f"{chosen.lines} command lines: exit statuses {dict(sorted(statuses.items()))}, {len(failed)} failures")
sys.exit(1 if failed or wrong else 0)
