"""A table: undefended, two defences, one data set, one attack; every row is a run that can be opened again.

python examples/researcher.py [folder for the runs]
"""

import sys
from pathlib import Path

import ironclip

ATTACK = {"attack": "pgd", "eps": "1/255", "steps": 3, "limit": 10}
SMALL = {"eps": "1/255", "epochs": 1, "attack.steps": 1, "length": 2}


def main(root: Path) -> str:
    backbone = ironclip.load("mini")  # for a paper's row: "ViT-B-32/openai"
    data = ironclip.dataset("shapes", shots=1, seed=1)
    models = [ironclip.zero_shot(backbone, data, root=root)]
    for method in ("apt", "nap"):
        models.append(ironclip.fit(method, backbone, data, root=root, **SMALL))
    result = ironclip.evaluate(models, **ATTACK)
    (root / "table.tex").write_text(result.table("latex"), encoding="utf-8")
    return result.table()


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs")))
