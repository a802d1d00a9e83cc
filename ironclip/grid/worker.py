"""One worker process: `python -m ironclip.grid.worker FILE OUT DEVICE`; any number may share a folder, on any machine."""

import signal
import sys
from pathlib import Path

from ironclip.grid.plan import plan
from ironclip.grid.work import work


def main(file: str, out: str, device: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave the cell as after Ctrl-C
    try:
        work(plan(Path(file)), Path(out), device=device)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:4])
