"""What opening a folder of many images costs, and how much of it an index of its names could save.

    python -m benchmarks.opening --files 200000

Writes empty files into a temporary folder with 200 class folders, as no file is read whose name says what it is. Printed are
processor seconds of the first and the second opening and of their parts: reading the folders (all that an index would save),
everything after it, and asking each file for its size and time. The last is part of the name of a pack of decoded images, and no
index can save it, because a file that is written anew does not change its folder.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ironclip.data import open_dataset
from ironclip.data.records import Item
from ironclip.data.walk import contents

FOLDERS = 200


def written(top: Path, files: int) -> None:
    """So many empty files in equal class folders."""
    for number in range(FOLDERS):
        folder = top / f"class{number:03d}"
        folder.mkdir()
        for position in range(files // FOLDERS):
            (folder / f"img_{position:05d}.png").touch()


def seconds(path: Callable[[], object]) -> float:
    begin = time.process_time()
    path()
    return time.process_time() - begin


def stamped(items: Sequence[Item]) -> list[str]:
    return [item.source.stamp() for item in items]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=200_000)
    files = parser.parse_args(argv).files
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        written(top, files)
        for which in ("first", "second"):
            whole, walk = seconds(lambda: open_dataset(top)), seconds(lambda: contents(top))
            items = [item for part in open_dataset(top).splits.values() for item in part]
            stamps = seconds(partial(stamped, items))
            print(f"{which} opening of {len(items):,} files: {whole:.2f} s, of it folders {walk:.2f} s; stamps {stamps:.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
