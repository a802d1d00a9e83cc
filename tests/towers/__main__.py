"""Every method on every tower class: `python -m towers` runs what is missing and writes the table of docs/backbones.md.

A cell runs with the contract of `contract.py` and the whole way of `chain.py`, or it refuses in one line that names method and
tower. Anything else fails the command. Finished cells are kept in --out, so that an interrupted command goes on.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from ironclip.core.errors import IronclipError
from towers.chain import photos, walk
from towers.contract import METHODS, check
from towers.small import CONFIGS, published, small, write
from towers.table import written

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--towers", nargs="*", default=list(CONFIGS))
parser.add_argument("--methods", nargs="*", default=list(METHODS))
parser.add_argument("--out", type=Path, default=Path("runs/towers.json"), help="finished cells")
parser.add_argument("--docs", type=Path, default=Path("docs/backbones.md"), help="the page with the table")
parser.add_argument("--contract-only", action="store_true", help="leave out training, evaluation, saving and export")


def cell(method: str, tower: str, folder: Path, chain: bool) -> str:
    """What the cell says: "runs", "contract" (the way was left out), "refuses: ...", or "fails: ..."."""
    backbone, weights = small(tower, folder), write(tower, folder)
    try:
        check(method, backbone)
        if chain:
            with tempfile.TemporaryDirectory() as place:
                walk(method, weights, backbone, photos(folder / "photos"), Path(place))
    except IronclipError as error:
        text = str(error)
        named = method in text and f"small-{tower}" in text and "\n" not in text
        return f"{'refuses' if named else 'fails: refusal without both names'}: {text.replace(str(folder), '')}"
    except Exception as error:  # anything else is a third outcome, which the command must show
        return f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return "runs" if chain else "contract"


def main() -> int:
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells: dict[str, dict[str, str]] = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {}
    done = ("runs", "contract", "refuses") if asked.contract_only else ("runs", "refuses")
    with tempfile.TemporaryDirectory() as folder, published():
        for tower in asked.towers:
            for method in asked.methods:
                if cells.get(tower, {}).get(method, "").startswith(done):
                    continue
                said = cell(method, tower, Path(folder), chain=not asked.contract_only)
                cells.setdefault(tower, {})[method] = said
                asked.out.parent.mkdir(parents=True, exist_ok=True)
                asked.out.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
                print(f"{tower} {method}: {said}", flush=True)
    cells = {tower: {name: row[name] for name in METHODS if name in row} for tower in CONFIGS if (row := cells.get(tower))}
    asked.docs.write_text(written(asked.docs.read_text(encoding="utf-8"), cells), encoding="utf-8")
    failed = [f"{tower} {method}" for tower, row in cells.items() for method, said in row.items() if said.startswith("fails")]
    print(f"{sum(map(len, cells.values()))} cells, {len(failed)} fail: {'; '.join(failed)}")
    return int(bool(failed))


sys.exit(main())
