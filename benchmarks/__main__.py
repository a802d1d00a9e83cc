"""All benchmarks in one table; `--full` for every case (over half an hour on an idle core), else the quick ones."""

import sys
from collections.abc import Iterable, Sequence

from benchmarks import (
    advmask_step,
    apt_step,
    atpt_image,
    autoattack_eval,
    defeat_step,
    fap_step,
    harness,
    nap_step,
    pgd_eval,
    rtpt_image,
    text_tower,
)


def rows(quick: bool, rounds: int) -> Iterable[harness.Row]:
    for module in (
        text_tower,
        apt_step,
        nap_step,
        fap_step,
        defeat_step,
        advmask_step,
        pgd_eval,
        autoattack_eval,
        rtpt_image,
        atpt_image,
    ):
        yield from module.rows(quick, rounds)


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    given = [word for word in given if word != "--full"] if "--full" in given else [*given, "--quick"]
    return harness.main(rows, __doc__ or "", given)


if __name__ == "__main__":
    sys.exit(main())
