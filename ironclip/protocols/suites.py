"""Named lists of data sets, measured one after the other: zero-shot robust generalisation, domain shift, cross-dataset.

`tecoa` is the zero-shot suite of the TeCoA line as its loaders make it, traps included: torchvision's lists (all images of
Caltech101, Caltech256, SUN397 and EuroSAT), names in lower case, the prompts of TeCoA, two classes of Caltech101 both called
"person", and a misspelt prompt of PCAM. `clean` is the same list with our lists, names and prompts. A set that is not here is
left out with its reason; a mean always comes with the sets it is over. Two things differ from the published suite: images of
CIFAR and STL are attacked at the resolution of the backbone, not at their own, and Food101, FGVC-Aircraft and Caltech256 have our
prompts, since those of the loaders could not be read [inferred].

Sources: sheets of cvlab-columbia/ZSRobust4FoundationModel and TTC; CoOp; Dassl.
"""

from collections.abc import Sequence

from ironclip.core.errors import DataError, UsageError, unknown
from ironclip.data import Dataset, open_dataset
from ironclip.data.catalogue import templates_of

ZERO_SHOT = (
    "tiny_imagenet", "cifar10", "cifar100", "stl10", "imagenet", "caltech101", "caltech256", "oxford_pets", "oxford_flowers",
    "food101", "stanford_cars", "sun397", "country211", "fgvc_aircraft", "eurosat", "dtd", "pcam",
)  # fmt: skip
TARGETS = (
    "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397", "dtd", "eurosat",
    "ucf101",
)  # fmt: skip
SHIFTED = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SUITES: dict[str, tuple[str, ...]] = {
    "tecoa": ZERO_SHOT,
    "clean": ZERO_SHOT,
    "coop": ("imagenet", *TARGETS),
    "cross": TARGETS,
    "fine-grained": tuple(name for name in TARGETS if name not in ("food101", "sun397")),
    "shift": SHIFTED,
    "shift-1000": ("imagenetv2", "imagenet_sketch", "imagenet_a:1000", "imagenet_r:1000"),
}
"""`shift` scores ImageNet-A and -R over their 200 classes (CoOp), `shift-1000` over all of ImageNet's (APT, DEFEAT)."""

WHOLE = ("caltech101", "caltech256", "sun397", "eurosat")
OWN_LAYOUT = ("imagenet", "tiny_imagenet")
PCAM = ("Tthis is a photo of healthy lymph node tissue.", "This is a photo of lymph node tumor tissue.")


def open_suite(suite: str, only: Sequence[str] = ()) -> tuple[dict[str, Dataset], dict[str, str]]:
    """(data sets that are here by name, reasons of those that are not), in the order of the list.

    Args:
        only: names of the list to be opened; default: all.

    Raises:
        UsageError: no such suite, or a name that it does not have. DataError: none of its data sets is here.
    """
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    for name in only:
        if name not in SUITES[suite]:
            raise unknown(f"data set of the suite {suite}", name, SUITES[suite])
    found: dict[str, Dataset] = {}
    missing: dict[str, str] = {}
    for name in only or SUITES[suite]:
        try:
            found[name] = as_tecoa(name, open_dataset(_listed(name))) if suite == "tecoa" else open_dataset(name)
        except DataError as problem:
            missing[name] = str(problem)
    if not found:
        raise DataError(f"none of the data sets of the suite {suite} is here ({', '.join(missing)}); see `ironclip data list`")
    return found, missing


def as_tecoa(name: str, dataset: Dataset) -> Dataset:
    """The set as the loaders of the suite make it: which images are tested, the class names, the prompts."""
    templates = _prompts(name)
    classes = tuple(" ".join(part for part in _spaced(each).lower().split()) for each in dataset.classes)
    if name == "caltech101":
        classes = tuple("person" if each in ("face", "faces", "faces easy") else each for each in classes)
    if name == "pcam":
        classes, templates = PCAM, ("{}",)
    splits = dict(dataset.splits)
    if name in WHOLE:
        splits = {"test": tuple(item for items in splits.values() for item in items)}
    return dataset.changed(name=name, classes=classes, templates=templates, splits=splits)


def _prompts(name: str) -> tuple[str, ...]:
    try:
        return templates_of(name, "tecoa")
    except UsageError:
        return templates_of(name)


def _spaced(text: str) -> str:
    for mark in "_-/":
        text = text.replace(mark, " ")
    return text


def _listed(name: str) -> str:
    return name if name in OWN_LAYOUT else f"torchvision:{name}"
