"""Whether a text tower can distinguish the classes of a data set."""

from ironclip.backbones import ClipBackbone
from ironclip.core.errors import DataError
from ironclip.data import Dataset, catalogue


def check_distinct(backbone: ClipBackbone, dataset: Dataset) -> None:
    """DataError where two classes become the same tokens, and so the same text features: one of them is never predicted.

    The lists of the known benchmarks are taken as they are: those of ImageNet hold two such pairs.
    """
    if dataset.name.partition("-base")[0].partition("-new")[0] in catalogue():
        return
    template = dataset.templates[0]
    seen: dict[tuple[int, ...], int] = {}
    rows = backbone.tokenize([template.replace("{}", name) for name in dataset.classes]).tolist()
    for label, row in enumerate(rows):
        earlier = seen.setdefault(tuple(row), label)
        if earlier != label:
            other, name = dataset.classes[earlier], dataset.classes[label]
            raise DataError(
                f"{dataset.name}: the classes {other!r} and {name!r} are the same to {backbone.spec.name} (identical text "
                "features); give each its own name with --classes"
            )
