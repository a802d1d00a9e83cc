"""The meaning of a set's folders: one per class, split folders with classes inside, or classes with splits inside.

It is decided from names and structure, and only without doubt; else an error says which option to give. Pure: takes lists of
paths and returns (image, class, split) for each image.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from ironclip.core.errors import DataError
from ironclip.core.shown import number_of
from ironclip.data.roles import Layout, neutral, roles, wraps
from ironclip.data.walk import Contents, by_parts, counted

Row = tuple[str, str, str | None]
"""An image's path, its class folder, its split; None where the split is ours to draw."""


@dataclass(frozen=True)
class Arranged:
    """The images with class and split, and the class folders in their order."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Tree:
    """Folders below `top` that hold images, from lists of paths. Each level reads only what lies below it.

    Args:
        images, folders: those of `found` below `top`, in their order; default: all.
    """

    def __init__(
        self, found: Contents, top: str = "", pictures: Sequence[str] | None = None, folders: Sequence[str] | None = None
    ) -> None:
        self.top, self.found = top, found
        self.inside: dict[str, list[str]] = defaultdict(list)  # folder -> images below it, of each folder directly inside
        self.loose: list[str] = []  # images that lie in no folder
        self.empty: list[str] = []  # folders directly inside without an image below them
        self._folders: dict[str, list[str]] = defaultdict(list)  # folder -> folders below it
        start = len(top) + 1 if top else 0
        for path in found.pictures if pictures is None else pictures:
            head, slash, _ = path[start:].partition("/")
            self.inside[head].append(path) if slash else self.loose.append(path)
        for path in found.folders if folders is None else folders:
            head, slash, _ = path[start:].partition("/")
            if slash:
                self._folders[head].append(path)
            elif head not in self.inside:
                self.empty.append(head)

    def below(self, name: str) -> "Tree":
        top = f"{self.top}/{name}" if self.top else name
        return Tree(self.found, top, self.inside.get(name, ()), self._folders.get(name, ()))


def arrange(found: Contents, where: str, layout: Layout = Layout()) -> Arranged:  # noqa: B008
    """Every image with its class and split.

    Raises:
        DataError: nothing that looks like classes, images in no class folder, or folders that may be meant in two ways.
    """
    tree = Tree(found)
    if layout.kind == "classes":
        return _classes(tree, where)
    tree = _unwrapped(tree)
    below = {name: tree.below(name) for name in tree.inside}
    if layout.kind == "named":
        return _named(tree, below, layout.parts, where)
    known = roles(tree.inside)
    nested = {name: role for name, role in known.items() if below[name].inside}
    if layout.kind == "splits" or (len(set(known.values())) > 1 and nested) or (known and len(known) == len(tree.inside)):
        if not known:
            raise DataError(f"{where}: no folder is named like a split; say which is which with --layout {_example(tree)}")
        return _splits(tree, below, known, where, layout.kind == "splits")
    inner = roles({name for each in below.values() for name in each.inside})
    if layout.kind == "class/split" or _split_inside(below, inner):
        return _class_splits(tree, below, inner, where)
    _refuse_doubt(tree, below, known, nested, where)
    return _classes(tree, where)


def _unwrapped(tree: Tree) -> Tree:
    """The tree below folders that hold all class folders and are no class: `archive/images/<class>` is read at `<class>`.

    Images beside such a folder belong to no class.
    """
    while len(tree.inside) == 1 and not roles(tree.inside):
        (name,) = tree.inside
        inner = tree.below(name)
        if inner.loose or not inner.inside:
            break
        inner.loose = tree.loose
        tree = inner
    return tree


def _classes(tree: Tree, where: str) -> Arranged:
    if not tree.inside and not tree.empty:
        many = len(tree.loose)
        nothing = "an empty folder" if not tree.found.left_out else f"no image ({tree.found.said()})"
        found = f"{number_of(many, 'image')} directly in it" if many else nothing
        raise DataError(f"{where}: expected one folder of images for each class; found {found}")
    for name in tree.empty:
        said = tree.found.said(f"{tree.top}/{name}" if tree.top else name)
        holds = f" (only {said})" if said else ""
        raise DataError(f"{where}: the class folder {name!r} holds no image{holds}; add some or remove the folder")
    names = sorted(tree.inside)
    rows: list[Row] = [(path, name, None) for name in names for path in tree.inside[name]]
    notes = [f"in no class folder: {number_of(len(tree.loose), 'image')} left out, e.g. {tree.loose[0]}"] if tree.loose else []
    deep = [name for name in names if len(tree.below(name).inside) > 1 and not tree.below(name).loose]
    if deep:
        notes.append(f"{len(deep)} class folders hold folders, e.g. {deep[0]!r}: everything below a class folder is that class")
    return Arranged(tuple(rows), tuple(names), tuple(notes))


def _splits(tree: Tree, below: Mapping[str, Tree], known: Mapping[str, str], where: str, sure: bool = False) -> Arranged:
    """Split folders with class folders inside."""
    others = [name for name in tree.inside if name not in known]
    insides = {folded(name) for part in known for name in below[part].inside}
    unclear = [name for name in others if below[name].inside or folded(name) in insides]
    if unclear and not sure:
        raise _doubt(tree, where, f"{_listed(known)} look like splits, but {_listed(unclear)} lies beside them")
    notes = [f"in {name!r}, which is no split: {number_of(len(tree.inside[name]), 'image')} left out" for name in others]
    notes += [f"in no split: {number_of(len(tree.loose), 'image')} left out, e.g. {tree.loose[0]}"] if tree.loose else []
    notes += [f"the folder {name!r} holds no image" for name in tree.empty]
    parts = {name: _part(below[name], name) for name in known}
    unsorted = {name: _unsorted(name, parts) for name in parts}
    for name, part in parts.items():
        part.loose += unsorted[name]
    for name, part in parts.items():
        if part.loose:
            skip = ",".join(f"{each}={'skip' if parts[each].loose else split}" for each, split in known.items())
            raise DataError(
                f"{where}: {part.loose[0]} lies in no class folder; expected {name}/<class>/<image>. If it is a class: "
                f"--layout classes; to leave such images out: --layout {skip!r}"
            )
    classes, merged = _one_name({name: [*part.inside, *part.empty] for name, part in parts.items()})
    notes += merged
    alone = set(known.values()) == {"train"}
    if alone:
        notes.append(f"there is only {_listed(known)}: a test split is drawn from it")
    rows: list[Row] = [
        (path, classes.get(folded(name), name), None if alone else known[part_name])
        for part_name, part in parts.items()
        for name, paths in part.inside.items()
        for path in paths
    ]
    every = {classes.get(folded(name), name) for part in parts.values() for name in (*part.inside, *part.empty)}
    if alone:
        every = {name for _, name, _ in rows}
    return Arranged(tuple(sorted(rows, key=lambda row: by_parts(row[0]))), tuple(sorted(every)), tuple(notes))


def _part(tree: Tree, name: str) -> Tree:
    """The classes of a split folder: those inside it, or inside `train/train` and `train/images`."""
    while len(tree.inside) == 1 and not tree.loose:
        (only,) = tree.inside
        inner = tree.below(only)
        if not (folded(only) == folded(name) or neutral(only)) or not inner.inside:
            break
        tree = inner
    return tree


def _unsorted(name: str, parts: Mapping[str, Tree]) -> list[str]:
    """Images of a split in a folder that is no class: `val/images`, `train/train`, alone there or in no other split."""
    others = {inner for other, part in parts.items() if other != name for inner in part.inside}
    part = parts[name]
    plain = [inner for inner in part.inside if wraps(inner) or folded(inner) == folded(name)]
    return [path for inner in plain if len(part.inside) == 1 or inner not in others for path in part.inside[inner]]


def _one_name(parts: Mapping[str, Sequence[str]]) -> tuple[dict[str, str], list[str]]:
    """({folded name: name}, notes): folders of different splits that differ in case or in accents alone are one class."""
    same: dict[str, set[str]] = defaultdict(set)
    apart: set[str] = set()  # where one split holds both, they are two
    for names in parts.values():
        apart |= {key for key, count in Counter(map(folded, names)).items() if count > 1}
        for name in names:
            same[folded(name)].add(name)
    merged = {key: sorted(names) for key, names in same.items() if len(names) > 1 and key not in apart}
    notes = [
        f"the folders {' and '.join(map(ascii, names))} of different splits are read as one class" for names in merged.values()
    ]
    return {key: names[0] for key, names in merged.items()}, notes


def _split_inside(below: Mapping[str, Tree], inner: Mapping[str, str]) -> bool:
    """Whether these are classes that each hold split folders, and not parts of a set that each hold classes."""
    if len(below) < 2 or len(set(inner.values())) < 2 or roles(below):
        return False
    if any(tree.loose or not tree.inside or not set(tree.inside) <= set(inner) for tree in below.values()):
        return False
    deep = [{folded(name) for split in tree.inside for name in tree.below(split).inside} for tree in below.values()]
    return not any(_alike(a, b) for a, b in combinations(deep, 2))


def _class_splits(tree: Tree, below: Mapping[str, Tree], inner: Mapping[str, str], where: str) -> Arranged:
    rows: list[Row] = []
    for name, part in below.items():
        odd = part.loose or [path for split, paths in part.inside.items() if split not in inner for path in paths]
        if odd:
            raise DataError(f"{where}: {odd[0]} lies in no split folder; expected {name}/<train, val or test>/<image>")
        rows += [(path, name, inner[split]) for split, paths in part.inside.items() for path in paths]
    notes = [f"in no class folder: {number_of(len(tree.loose), 'image')} left out, e.g. {tree.loose[0]}"] if tree.loose else []
    return Arranged(tuple(sorted(rows, key=lambda row: by_parts(row[0]))), tuple(sorted(below)), tuple(notes))


def _named(tree: Tree, below: Mapping[str, Tree], parts: Mapping[str, str], where: str) -> Arranged:
    """The folders as the user says."""
    inner = {name for each in below.values() for name in each.inside}
    if not set(parts) & set(tree.inside) and set(parts) & inner:
        kept = {name: each for name, each in below.items() if set(each.inside) - {n for n, s in parts.items() if s == "skip"}}
        arranged = _class_splits(tree, kept, parts, where)
        return Arranged(tuple(row for row in arranged.rows if row[2] != "skip"), arranged.classes, arranged.notes)
    unknown = [name for name in parts if name not in tree.inside and name not in tree.empty]
    if unknown:
        raise DataError(f"{where}: the layout names {unknown[0]!r}; folders with images are {_listed(tree.inside)}")
    unsaid = [name for name in tree.inside if name not in parts]
    if unsaid:
        raise DataError(f"{where}: the layout says nothing of {_listed(unsaid)}; add {unsaid[0]}=train, val, test or skip")
    return _splits(tree, below, {name: split for name, split in parts.items() if split != "skip"}, where, sure=True)


def _refuse_doubt(tree: Tree, below: Mapping[str, Tree], known: Mapping[str, str], nested: Mapping[str, str], where: str) -> None:
    """DataError where the folders may be splits although their names do not say so."""
    if nested:
        raise _doubt(tree, where, f"{_listed(nested)} looks like a split folder beside others")
    if len(set(known.values())) > 1:
        raise _doubt(tree, where, f"{_listed(known)} look like splits, but hold no class folders")
    if plain := [name for name in below if wraps(name) and len(below) > 1]:
        raise _doubt(tree, where, f"{_listed(plain)} says that images are inside, and names no class")
    if len(below) > 1 and all(
        len(name) == 1 and name.isalpha() and each.inside and not each.loose for name, each in below.items()
    ):
        raise _doubt(tree, where, f"{_listed(below)} hold folders, and a letter names no class")
    names = {name: {folded(inner) for inner in _part(each, name).inside} for name, each in below.items() if not each.loose}
    alike = [pair for pair in combinations(names, 2) if _alike(names[pair[0]], names[pair[1]])]
    if alike:
        raise _doubt(tree, where, f"{_listed(alike[0])} hold nearly the same folders, as splits of one set do")


def _alike(a: set[str], b: set[str]) -> bool:
    """Whether two sets of folder names are nearly the same, or most of the smaller one is in the other: a small test split."""
    a, b = ({name for name in names if name.isdecimal() or not neutral(name)} for names in (a, b))
    return len(a | b) >= 2 and 2 * len(a & b) > min(len(a), len(b)) > 0


def _doubt(tree: Tree, where: str, why: str) -> DataError:
    return DataError(f"{where}: {why}. If each folder is a class say --layout classes; if not, --layout {_example(tree)}")


def _example(tree: Tree) -> str:
    """An example of the option `layout` for a message: known splits by their names, else the folder with most images for
    training."""
    names = sorted(tree.inside)
    largest = sorted(names, key=lambda name: -len(tree.inside[name]))
    guess = roles(names) or dict(zip(largest, ("train", "test")))
    shown = [f"{name}={guess.get(name, 'skip')}" for name in names[:5]]
    return repr(",".join(shown)) + (", ..." if len(names) > 5 else "")


def folded(name: str) -> str:
    """The name without differences that some file systems ignore: case, and the encoding of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in sorted(names)]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def left_out(found: Contents) -> tuple[str, ...]:
    """One note about everything in a folder that is no image; none where there is nothing."""
    kinds = Counter(kind for kind, _ in found.left_out)
    return (f"left out: {counted(kinds)}",) if kinds else ()
