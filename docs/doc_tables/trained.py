"""Tables of trained defences at their training radius, of their retrieval, and of the search of their presets."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import fmean, pstdev

from doc_tables.reading import SETS, Stored, found, harmonic, interval, per_cent, stored, table, tenths


def headline(
    data: str,
    methods: Sequence[str] = (),
    attack: str = "standard-fast",
    file: str = "headline",
    shown: Mapping[str, str] | None = None,
    eps: str = "2/255",
) -> str:
    """Trained defences at their training radius, one seed; without `methods` all that are stored, the most robust first.

    Args:
        shown: name of a method in the file -> its name in the table.
    """
    facts = f"backbone mini; 16 shots; linf {eps} white-box; {attack}"
    there = [line for line in stored(file) if (line["facts"], line["data"], line["seeds"]) == (facts, data, "1")]
    there.sort(key=lambda line: (-float(line["robust"]), -float(line["clean"])))
    lines = []
    for method in methods or [line["method"] for line in there]:
        line = found(file, method, data, facts, seeds="1")
        assert line is not None, method
        figures = [f"{per_cent(line, what)} {interval(line, what)}" for what in ("clean", "robust")]
        lines.append([(shown or {}).get(method, method), f"{int(line['learned_parameters']):,}", *figures])
    return table(["method", "learned parameters", "clean %", f"robust at {eps} %"], lines)


def headline_defeat() -> str:
    """DEFEAT under the default attack and under one that knows its branches, the same images."""
    lines = []
    for knowledge, attack in (("white-box", "standard-fast"), ("adaptive", "pgd (40 steps)")):
        facts = f"backbone mini; 16 shots; linf 2/255 {knowledge}; {attack}"
        for data in SETS:
            if (line := found("headline", "defeat", data, facts)) is not None:
                figures = [f"{per_cent(line, what)} {interval(line, what)}" for what in ("clean", "robust")]
                lines.append([data, f"{knowledge}, {attack}", *figures])
    return table(["data", "attack", "clean %", "robust at 2/255 %"], sorted(lines, key=lambda line: line[0]))


def headline_seeds() -> str:
    """Clean and robust shares of each training seed, the same images, and the mean of the robust ones with their deviation."""
    lines, seeds = [], sorted({line["seed"] for line in stored("headline-seeds")})
    for method in dict.fromkeys(line["method"] for line in stored("headline-seeds")):
        runs = {line["seed"]: line for line in stored("headline-seeds") if line["method"] == method}
        of = {seed: [100 * int(run[what]) / int(run["images"]) for what in ("clean", "robust")] for seed, run in runs.items()}
        cells = ["{:.1f} / {:.1f}".format(*of[seed]) if seed in of else "–" for seed in seeds]
        robust = [share for _, share in of.values()]
        lines.append([method, *cells, f"{fmean(robust):.1f} ±{pstdev(robust):.1f}"])
    return table(["method", *[f"seed {seed}: clean / robust %" for seed in seeds], "mean robust % ± deviation"], lines)


REFINERS = {
    "nap (sides=default)": "refiners in both towers",
    "nap (sides=image)": "in the image tower",
    "nap (sides=text)": "in the text tower",
    "nap (refiner_layers=0, sides=default)": "none",
}
README = ("zero_shot", "fap", "apd", "capt", "defeat", "advmask", "nap", "tecoa")


def retrieval(data: str) -> str:
    """Recall at 5 both ways, clean, under PGD on the images and under Co-Attack, the most robust to PGD first."""
    under = ("clean", "pgd on images", "coattack on both")
    lines = []
    for method in dict.fromkeys(line["method"] for line in stored("retrieval") if line["data"] == data):
        cells = []
        for way in ("image to text at 5", "text to image at 5"):
            for attack in under:
                (line,) = [
                    line for line in stored("retrieval")
                    if (line["method"], line["data"], line["attack"], line["measure"]) == (method, data, attack, way)
                ]  # fmt: skip
                cells.append(100 * int(line["found"]) / int(line["of"]))
        lines.append((method, cells))
    lines.sort(key=lambda line: -line[1][1])
    head = [f"{way}: {attack}" for way in ("image to text", "text to image") for attack in under]
    return table(["method", *head], [[method, *[f"{cell:.1f}" for cell in cells]] for method, cells in lines])


KNOWN = ("static", "white-box", "adaptive")
"""What an attacker knows: the columns of a method that is attacked with and without its defence."""


def recent_trained(data: str) -> str:
    """The trained defences of 2025 and 2026 and their neighbours: what is left of images made without the defence, and of an
    attack through it. Means over the training seeds with their deviation."""
    found: dict[str, dict[str, Stored]] = {}
    for line in stored("recent-trained"):
        if line["data"] == data:
            knowledge = next(side for side in KNOWN if f" {side}; " in line["facts"])
            found.setdefault(line["method"], {})[knowledge] = line
    lines = []
    for method, sides in sorted(found.items(), key=lambda entry: -float(entry[1]["white-box"]["robust"])):
        attacked = sides["white-box"]
        cells = [spread(attacked, "clean"), *[spread(sides[side], "robust") if side in sides else "–" for side in KNOWN]]
        lines.append([method, f"{int(attacked['learned_parameters']):,}", attacked["seeds"], *cells])
    return table(["method", "learned parameters", "seeds", "clean %", *[f"{side} %" for side in KNOWN]], lines)


def spread(line: Stored, what: str) -> str:
    """A mean in per cent with the deviation over seeds, or with its interval where there is one seed."""
    if line["seeds"] == "1":
        return f"{per_cent(line, what)} {interval(line, what)}"
    return f"{per_cent(line, what)} ±{per_cent(line, f'{what}_std')}"


FINE_TUNED = ("tecoa", "fare", "pmg_aft", "tga_zsr", "agft", "simclip", "comp_tga", "advflyp", "qt_aft", "saft")
BEFORE = {
    **dict.fromkeys(FINE_TUNED, ("adamw", "0.0001")),
    "nap": ("adamw", "0.001"), "advmask": ("adamw", "0.0005"), "advclip_lora": ("adamw", "0.002"), "adapt": ("sgd", "0.05"),
    "paft": ("sgd", "1.0"), "avp_pixel": ("sgd", "10.0"),
}  # fmt: skip
"""Optimiser and rate of a quick preset before the search; SGD at 0.01 where a method is not named."""


def presets_chosen() -> str:
    """What the search chose for each method, and H before and after; the largest H first."""
    found: list[tuple[Fraction, list[str]]] = []
    for method in dict.fromkeys(line["method"] for line in stored("preset-search")):
        tries = {(line["optimizer"], line["lr"]): line for line in stored("preset-search") if line["method"] == method}
        worth = {key: harmonic([Fraction(int(line[what]), int(line["images"])) for what in ("clean", "robust")])
                 for key, line in tries.items()}  # fmt: skip
        before = BEFORE.get(method, ("sgd", "0.01"))
        best = max(worth, key=worth.__getitem__)  # the first of equals
        name = {"sgd": "SGD", "adamw": "AdamW"}[best[0]]
        chosen = f"{name} {best[1]}" + (", unchanged" if best == before else "")
        counts = f"{tries[best]['clean']}, {tries[best]['robust']}"
        found.append((worth[best], [method, tenths(worth[before]), tenths(worth[best]), counts, chosen]))
    head = ["method", "H before", "H chosen", "clean, robust of 80", "chosen"]
    return table(head, [cells for _, cells in sorted(found, key=lambda entry: -entry[0])])
