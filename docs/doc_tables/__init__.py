"""Tables of the pages and of the READMEs, written from the CSV files of `docs/results`: no figure in them is typed.

A page asks for a table with the line `<!-- table: NAME -->`; `docs/hooks.py` writes it there when the site is built. The README,
that of the benchmarks and the card of the weights are read where no site is built, so their tables stand between
`<!-- table: NAME -->` and `<!-- end -->`; `make tables` writes them anew, and a test says whether that was done.
"""

import re
from collections.abc import Callable
from functools import partial

from doc_tables.adapting import MEASURED, test_time, test_time_ablations, test_time_of
from doc_tables.attacks import audit_of_500, autoattack, demo, standard_fast
from doc_tables.published import as_printed, recent_trained_printed
from doc_tables.quick import (
    MASKS,
    REPRESENTATIONS,
    SHIELDS,
    STACKS,
    ablations,
    capt_ablations,
    defeat_on_thirty,
    defeats,
    fewer_shots,
    held_out,
    mask_shots,
    mask_transfer,
    other_sets,
    prompts,
    representations,
)
from doc_tables.reading import ROOT, as_stored
from doc_tables.trained import (
    README,
    REFINERS,
    headline,
    headline_defeat,
    headline_seeds,
    presets_chosen,
    recent_trained,
    retrieval,
)

TABLES: dict[str, Callable[[], str]] = {
    "headline readme": partial(headline, "eurosat", README),
    "headline eurosat": partial(headline, "eurosat"),
    "headline flowers5": partial(headline, "flowers5"),
    "headline eurosat 4": partial(headline, "eurosat", eps="4/255"),
    "headline autoattack": partial(headline, "eurosat", attack="AutoAttack"),
    "headline seeds": headline_seeds,
    "headline defeat": headline_defeat,
    **{f"retrieval {data}": partial(retrieval, data) for data in ("shapes", "coco-captions-mini")},
    **{f"recent trained {data}": partial(recent_trained, data) for data in ("eurosat", "flowers5")},
    "recent trained printed": recent_trained_printed,
    "refiners": partial(headline, "eurosat", file="refiners", shown=REFINERS),
    "few-shot": partial(as_stored, "few-shot"),
    "prompts mini": partial(prompts, "mini"),
    "prompts mini-robust": partial(prompts, "mini-robust"),
    "representations": partial(representations, (*REPRESENTATIONS, *STACKS), ("eurosat", "flowers5", "clothing10"), "mini"),
    "representations caltech101": partial(representations, REPRESENTATIONS, ("caltech101",), "mini", "4 shots"),
    "representations mini-robust": partial(representations, REPRESENTATIONS, ("eurosat", "flowers5"), "mini-robust"),
    "masks": partial(ablations, MASKS),
    "masks shots": mask_shots,
    "masks transfer": mask_transfer,
    "shields": partial(ablations, SHIELDS),
    **{f"test time {data} 4": partial(test_time, data, "4/255") for data in ("eurosat", "flowers5")},
    **{f"test time of {method}": partial(test_time_of, method) for method in MEASURED},
    "test time printed": partial(as_printed, MEASURED),
    "test time ablations": test_time_ablations,
    "held out eurosat": partial(held_out, "eurosat"),
    "held out caltech101": partial(held_out, "caltech101"),
    "other sets": other_sets,
    "fewer shots": fewer_shots,
    "capt ablations": capt_ablations,
    "defeat": defeats,
    "defeat on 30 images": defeat_on_thirty,
    "presets chosen": presets_chosen,
    "autoattack": autoattack,
    "demo": demo,
    "standard-fast": standard_fast,
    "search in bfloat16": partial(as_stored, "search-bfloat16"),
    "other libraries": partial(as_stored, "other-libraries"),
    "audit of 500 images": audit_of_500,
    "audit of 50 images": partial(as_stored, "audit-1-255"),
    "export": partial(as_stored, "export"),
    "batching": partial(as_stored, "batching"),
    "speed": partial(as_stored, "speed", bold="plain / ours"),
    "speed of autoattack": partial(as_stored, "speed-autoattack", bold="plain / ours"),
    "speed of compaction": partial(as_stored, "speed-compaction"),
    "speed of switches": partial(as_stored, "speed-switches", bold="plain / ours"),
    "grid overhead": partial(as_stored, "grid-overhead"),
    "mini": partial(as_stored, "mini"),
    "mini clean": partial(as_stored, "mini-clean"),
}
"""Name of a table in a page -> the function that writes it."""
WHOLE = tuple(ROOT / page for page in ("README.md", "benchmarks/README.md", "ironclip/backbones/weights/CARD.md"))
"""Texts that hold their tables."""
MARK = re.compile(r"^<!-- table: ([\w -]+?) -->$", re.MULTILINE)
BLOCK = re.compile(r"^<!-- table: ([\w -]+?) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


def included(markdown: str) -> str:
    """A page with the tables that it asks for."""
    return MARK.sub(lambda mark: TABLES[mark[1]](), markdown)


def renewed(markdown: str) -> str:
    """A text whose tables stand between marks, with the tables written anew."""
    return BLOCK.sub(lambda mark: f"<!-- table: {mark[1]} -->\n{TABLES[mark[1]]()}\n<!-- end -->", markdown)
