"""An honest number for somebody's classifier: what it says when attacked without, and then through, its defence.

python examples/redteamer.py [folder for the runs]
"""

import sys
from pathlib import Path

import ironclip
from ironclip.attacks import FGSM, PGD

EPS = 2 / 255


def main(root: Path) -> dict[str, float]:
    backbone = ironclip.load("mini")
    data = ironclip.dataset("shapes", shots=1)
    target = ironclip.test_time("ttc", ironclip.zero_shot(backbone, data, root=root), steps=1)

    result = ironclip.evaluate(target, attack="pgd", eps=EPS, steps=5, limit=20, root=root)
    found = {record.threat.knowledge: record.robust.value for record in result.records}  # static and adaptive
    print(result)
    for record in result.records:
        for flag in record.flags:
            print(f"  {flag.level}: {flag.text}")

    batch = data.batch("test", 20, resolution=64)  # any attack that takes a function, images and labels will do
    for attack in (FGSM(eps=EPS), PGD(eps=EPS, steps=5)):
        adversarial = attack(target, batch.images, batch.labels)
        right = (target(adversarial).argmax(1) == batch.labels).double().mean()
        found[type(attack).__name__] = float(right)
        print(f"{type(attack).__name__}: {right:.0%} right of {len(batch)}")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
