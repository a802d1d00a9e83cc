"""One worker process: `python -m ironclip.grid.worker FILE OUT DEVICE [CHOICE]`; any number may share a folder, on any machine.

CHOICE is JSON: the keywords of `plan`, and "until", the time after which no cell is begun.
"""

import json
import sys
from pathlib import Path

from ironclip.core.errors import IronclipError
from ironclip.core.signals import LATER, Leaving, finishing, heard_from_here, leaving_in_order


def main(file: str, out: str, device: str, choice: str = "{}") -> None:
    chosen = json.loads(choice)
    until = chosen.pop("until", None)
    try:
        with leaving_in_order(), finishing():
            from ironclip.grid.plan import plan
            from ironclip.grid.work import work

            work(plan(Path(file), **chosen), Path(out), device=device, until=until)
    except Leaving:
        sys.exit(LATER)
    except KeyboardInterrupt:
        sys.exit(130)
    except IronclipError as error:  # of the whole grid; the error of a cell stays with it
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    with heard_from_here():
        main(*sys.argv[1:])
