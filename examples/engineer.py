"""From a folder of photos to one file that runs anywhere: train, measure, export, classify with the file alone.

python examples/engineer.py [folder with one subfolder per class]; without one, a few generated images stand in for photos.
"""

import sys
import tempfile
from pathlib import Path

import ironclip


def photos(folder: Path, each: int = 12) -> Path:
    """A folder with images of two classes, as a camera would leave it."""
    shapes = ironclip.dataset("shapes").dataset
    for name in ("red circle", "green square"):
        (folder / name).mkdir(parents=True)
        items = [item for item in shapes.items("train") if shapes.classes[item.label] == name]
        for item in items[:each]:
            item.source.open().save(folder / name / f"{item.index}.png")
    return folder


def main(folder: Path, out: Path) -> list[str]:
    data = ironclip.dataset(folder, shots=2)
    robust = ironclip.fit("nap", ironclip.load("mini"), data, preset="nap/quick", eps="1/255", epochs=2, root=out / "runs")
    print(ironclip.evaluate(robust, attack="pgd", eps="1/255", steps=3))
    exported = robust.export(out / "robust.pt2")  # or robust.onnx, with the extra `export`
    print(exported)

    alone = ironclip.load_classifier(exported.path, trust=True)  # a .pt2 is code: our own; no run and no backbone is read
    found = alone.classify(folder, top=1)
    return [f"{Path(row.name).parent.name}: {row.ranked[0][0]} {row.ranked[0][1]:.0%}" for row in found[:: len(found) // 4]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        given = Path(sys.argv[1]) if len(sys.argv) > 1 else photos(Path(place) / "photos")
        print("\n".join(main(given, Path(place))))
