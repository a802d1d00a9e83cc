"""One worker process: `python -m ironclip.grid.worker FILE OUT DEVICE [small]`; any number may share a folder, on any machine."""

import signal
import sys
from pathlib import Path

from ironclip.grid.plan import plan
from ironclip.grid.work import work


def main(file: str, out: str, device: str, size: str = "whole") -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave the cell as after Ctrl-C
    try:
        work(plan(Path(file), small=size == "small"), Path(out), device=device)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
