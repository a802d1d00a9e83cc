"""Tables of the pages and of the READMEs, written from the CSV files of `docs/results`: no figure in them is typed.

A page asks for a table with the line `<!-- table: NAME -->`; `hooks.py` writes it there when the site is built. The README, that
of the benchmarks and the card of the weights are read where no site is built, so their tables stand between
`<!-- table: NAME -->` and `<!-- end -->`; `python docs/tables.py` writes them anew, and a test says whether that was done.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from statistics import fmean, pstdev

from ironclip.records.statistics import mcnemar, wilson

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results"
PGD = "linf 1/255 {}; pgd (100 steps)"
SETS = ("caltech101", "clothing10", "eurosat", "flowers5")
Stored = Mapping[str, str]


@cache
def stored(file: str) -> tuple[Stored, ...]:
    """The lines of a CSV file of `docs/results`."""
    with (FOLDER / f"{file}.csv").open(encoding="utf-8") as stream:
        return tuple(csv.DictReader(stream))


def found(file: str, method: str, data: str, facts: str = "", **wanted: str) -> Stored | None:
    """The line of a method on a data set, the first of several that say the same; "quick" may be left out of a method's name.

    Raises:
        LookupError: the lines that fit say different things.
    """
    names = (method, f"{method} (quick)", method.replace("(", "(quick, "), f"zero_shot+{method}")
    lines = [
        line
        for line in stored(file)
        if line["method"] in names and line["data"] == data and facts in ("", line.get("facts", ""))
        if all(line[key].startswith(value) for key, value in wanted.items())
    ]
    if len({(line["clean"], line["robust"]) for line in lines}) > 1:
        raise LookupError(f"{file}.csv has {len(lines)} lines of {method} on {data}, {facts} {wanted}")
    return lines[0] if lines else None


def mean(values: Sequence[str]) -> Fraction:
    """The exact mean of stored decimals."""
    return sum(map(Fraction, values), Fraction()) / len(values)


def tenths(value: Fraction) -> str:
    """A share in per cent with one decimal; half way between two, to the even one."""
    return f"{round(1000 * value) / 10:.1f}"


def per_cent(line: Stored, column: str, digits: int = 1) -> str:
    return f"{100 * float(line[column]):.{digits}f}"


def interval(line: Stored, column: str, digits: int = 1) -> str:
    return f"[{per_cent(line, column + '_low', digits)}, {per_cent(line, column + '_high', digits)}]"


def share(count: int, of: int, digits: int = 1) -> str:
    """A count in per cent, with Wilson's interval at 95 %."""
    return "{} [{}, {}]".format(*[f"{100 * value:.{digits}f}" for value in (count / of, *wilson(count, of))])


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    above = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*above, *[f"| {' | '.join(cells)} |" for cells in lines]])


def headline(
    data: str,
    methods: Sequence[str] = (),
    attack: str = "standard-fast",
    file: str = "headline",
    shown: Mapping[str, str] | None = None,
) -> str:
    """Trained defences at their training radius, one seed; without `methods` all that are stored, the most robust first.

    Args:
        shown: name of a method in the file -> its name in the table.
    """
    facts = f"backbone mini; 16 shots; linf 2/255 white-box; {attack}"
    there = [line for line in stored(file) if (line["facts"], line["data"], line["seeds"]) == (facts, data, "1")]
    there.sort(key=lambda line: (-float(line["robust"]), -float(line["clean"])))
    lines = []
    for method in methods or [line["method"] for line in there]:
        line = found(file, method, data, facts, seeds="1")
        assert line is not None, method
        figures = [f"{per_cent(line, what)} {interval(line, what)}" for what in ("clean", "robust")]
        lines.append([(shown or {}).get(method, method), f"{int(line['learned_parameters']):,}", *figures])
    return table(["method", "learned parameters", "clean %", "robust at 2/255 %"], lines)


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


def as_stored(file: str, bold: str = "") -> str:
    """All lines of a file as they stand, under its own names of columns; the column `bold` in bold."""
    lines = stored(file)
    cells = [[f"**{cell}**" if name == bold else cell for name, cell in line.items()] for line in lines]
    return table(list(lines[0]), cells)


PROMPTS = ("zero_shot", "hep", "adv_vpt", "advmaple", "advpt", "advvlp", "apd", "apt", "avp_pixel", "capt", "fap", "nap", "paft")


def prompts(backbone: str) -> str:
    """Clean and robust accuracy of the prompt methods on four data sets, the best in bold, their means and H."""
    facts = f"backbone {backbone}; 16 shots; {PGD.format('white-box')}"
    figures: list[list[tuple[Fraction, str, bool]]] = []  # (value, what stands after it, whether it may be the best)
    tails = []
    for method in PROMPTS:
        lines = [line for data in SETS if (line := found("prompts", method, data, facts)) is not None]
        cells = []
        for line in lines:
            collapsed = line["note"] == "collapsed"
            for what, end in (("clean", ""), ("robust", "†" if collapsed else "")):
                spread = f" ±{per_cent(line, what + '_std')}" if line["seeds"] != "1" else ""
                cells.append((Fraction(line[what]), spread + end, what == "clean" or not collapsed))
        clean, robust = (mean([line[what] for line in lines]) for what in ("clean", "robust"))
        fallen = any(line["note"] == "collapsed" for line in lines)
        cells += [(clean, "", True), (robust, "†" if fallen else "", not fallen), (harmonic((clean, robust)), "", not fallen)]
        figures.append(cells)
        learned = sorted({int(line["learned_parameters"]) for line in lines})
        seconds = fmean(float(line["train_seconds"]) for line in lines)
        tails.append(["–".join(f"{count:,}" for count in dict.fromkeys((learned[0], learned[-1]))), f"{seconds:.0f}"])
    best = [max(round(1000 * cell[0]) for cell in column if cell[2]) for column in zip(*figures, strict=True)]
    lines_out = []
    for method, cells, tail in zip(PROMPTS, figures, tails, strict=True):
        shown = []
        for (value, end, ranked), top in zip(cells, best, strict=True):
            number = f"**{tenths(value)}**" if ranked and tail[0] != "0" and round(1000 * value) == top else tenths(value)
            shown.append(number + end)
        pairs = [f"{clean} / {robust}" for clean, robust in zip(shown[:-1:2], shown[1:-1:2], strict=True)]
        lines_out.append([method, *pairs, shown[-1], *tail])
    return table(
        ["method", *[f"{data} clean / robust" for data in (*SETS, "mean")], "H of the means", "learned", "train s"], lines_out
    )


def capt_ablations() -> str:
    """CAPT with one thing changed; the base with one seed stands in the file itself, for the other file has its mean of three."""
    facts = f"backbone mini; 16 shots; {PGD.format('white-box')}"
    plain = found("prompts", "zero_shot", "eurosat", facts)
    assert plain is not None
    lines = []
    for line in stored("capt-ablations"):
        figures = found("prompts", line["method"], "eurosat", facts, seeds="1") or line
        won, lost = int(line["won"]), int(line["lost"])
        p = mcnemar(won, lost)
        ratio = f"{won}, {lost} ({round(p, 3 if p < 0.05 else 2):g})"
        lines.append([line["change"], *[per_cent(figures, what, 0) for what in ("clean", "robust")], ratio])
    head = f"robust against zero-shot's {per_cent(plain, 'robust', 0)} %: won, lost (p)"
    return table(["what changes", "clean %", "robust %", head], lines)


def threats(file: str, method: str, data: str, backbone: str, shots: str) -> str:
    """ "clean / static / white-box / adaptive ±deviation [interval]"; "=" where the classifier itself is the adaptive attack."""
    return " / ".join(by_threat(file, method, data, backbone, shots)) or "–"


def by_threat(file: str, method: str, data: str, backbone: str, shots: str) -> list[str]:
    """The four cells that `threats` joins; none where nothing is stored."""
    lines = {}
    for threat in ("static", "white-box", "adaptive"):
        for steps in ("40", "100"):
            facts = f"backbone {backbone}; {shots}; linf 1/255 {threat}; pgd ({steps} steps)"
            lines[threat] = lines.get(threat) or found(file, method, data, facts)
    if lines["white-box"] is None:
        return []
    last = lines["adaptive"] or lines["white-box"]
    undefended = lines["static"] or lines["white-box"]  # of zero-shot, which has no other attack
    figures = [per_cent(line, what, 0) for line, what in
               ((lines["white-box"], "clean"), (undefended, "robust"), (lines["white-box"], "robust"))]  # fmt: skip
    figures.append(per_cent(last, "robust", 0) if lines["adaptive"] else "=")
    spread = f" ±{per_cent(last, 'robust_std', 0)}" if last["seeds"] != "1" else ""
    figures[-1] += f"{spread} {interval(last, 'robust', 0)}"
    return figures


REPRESENTATIONS = ("zero_shot", "tecoa", "fare", "tga_zsr", "pmg_aft", "advmask", "defeat (official)", "defeat (stable)")
STACKS = ("nap+advmask", "fap+advmask", "apt+defeat")


def representations(methods: Sequence[str], sets: Sequence[str], backbone: str, shots: str = "16 shots") -> str:
    lines = [[method, *[threats("representation", method, data, backbone, shots) for data in sets]] for method in methods]
    return table(["method", *[f"{data}: clean / static / white-box / adaptive" for data in sets]], lines)


def ablations(methods: Sequence[str]) -> str:
    lines = [[method, threats("representation", method, "eurosat", "mini", "16 shots")] for method in methods]
    return table(["", "eurosat"], lines)


MASKS = ("advmask", *[f"advmask ({option})" for option in (
    "adaptive_weight=False", "align_norm=l2, align_weight=2000", "align_weight=5", "alignment=js", "alignment=kl",
    "alignment=none", "default, alignment=kl", "default, alignment=lafa", "default, alignment=none", "targets=both",
    "targets=mlp")])  # fmt: skip
SHIELDS = ("defeat (stable)", *[f"defeat (stable, {option})" for option in (
    "codes=16", "codes=256", "codes=64", "fusion_weight=0, reconstruct=pixels", "fusion_weight=adaptive",
    "reconstruct=class")])  # fmt: skip


def defeat_on_thirty() -> str:
    """How many of 30 images withstand under DEFEAT's two presets and without it."""
    lines = stored("defeat-30")
    head = [f"{column.replace(' ', ': ').replace('_', '-')}" for column in list(lines[0])[2:]]
    return table(["", *head], [[f"{line['backbone']}, {line['data']}", *list(line.values())[2:]] for line in lines])


def defeats() -> str:
    """DEFEAT's presets set by set, beside zero-shot on the 30 images of its adaptive suite."""
    lines = []
    for counts in stored("defeat-30"):
        data, backbone = counts["data"], counts["backbone"]
        shots = "4 shots" if data == "caltech101" else "16 shots"
        where = data + (", 4 shots" if shots == "4 shots" else "") + (f", `{backbone}`" if backbone != "mini" else "")
        for preset in ("official", "stable"):
            *cells, adaptive = by_threat("representation", f"defeat ({preset})", data, backbone, shots)
            seeds = ", three seeds" if "±" in adaptive else ""
            figure, _, bounds = adaptive.partition(" [")
            plain = f"{100 * int(counts['zero_shot']) / 30:.0f}"
            lines.append([f"`{preset}`", where + seeds, *cells, f"**{figure}** [{bounds}", plain])
    return table(["preset", "data", "clean", "static", "white-box", "adaptive", "zero-shot on the 30"], lines)


def mask_shots() -> str:
    """AdvMask with one, four and sixteen shots."""
    lines = [
        [shots.split()[0], *[threats("representation", "advmask", data, "mini", shots) for data in ("eurosat", "flowers5")]]
        for shots in ("1 shot", "4 shots", "16 shots")
    ]
    return table(["shots", "eurosat", "flowers5"], lines)


def mask_transfer() -> str:
    """AdvMask's masks on the classes of another data set, clean / robust, beside zero-shot's."""
    lines = []
    for backbone, source, data in (("mini", "flowers5", "eurosat"), ("mini", "flowers5", "clothing10"),
                                   ("mini", "clothing10", "eurosat"), ("mini", "clothing10", "flowers5"),
                                   ("mini-robust", "flowers5", "eurosat")):  # fmt: skip
        facts = f"backbone {backbone}; 16 shots; {PGD.format('white-box')}"
        pair = [
            found("representation", "zero_shot", data, facts),
            found("representation", "advmask", data, f"{facts}; learned on {source}"),
        ]
        lines.append([backbone, source, data, *[both(line) for line in pair]])
    return table(["backbone", "learned on", "measured on", "zero-shot", "masked"], lines)


def both(line: Stored | None) -> str:
    """ "clean / robust" in whole per cent."""
    return "–" if line is None else f"{per_cent(line, 'clean', 0)} / {per_cent(line, 'robust', 0)}"


TEST_TIME = ("zero_shot", "rtpt", "atpt", "tpt", "tpt_ensemble", "ctpt", "mta", "ttc", "tapt", "aom")


def test_time() -> str:
    """Clean, static and adaptive accuracy of the test-time methods, and what they cost."""
    lines = []
    for method in TEST_TIME:
        cells, values, seconds = [], [], []
        for data in SETS:
            static, adaptive = (found("testtime", method, data, threat=threat) for threat in ("static", "adaptive"))
            assert static is not None
            assert adaptive is not None
            figures = (per_cent(static, "clean", 0), per_cent(static, "robust", 0), per_cent(adaptive, "robust", 0))
            cells.append(f"{figures[0]} / {figures[1]} / **{figures[2]}** {interval(adaptive, 'robust', 0)}")
            values.append([static["clean"], static["robust"], adaptive["robust"]])
            seconds.append(float(static["answer_seconds"]))
        average = " / ".join(tenths(mean(column)) for column in zip(*values, strict=True))
        forward, backward = (f"{float(static[f'{way}_passes']):.0f}" for way in ("forward", "backward"))
        passes = f"{forward} + {backward} back" if backward != "0" else "1" if forward == "0" else forward
        lines.append([method, *cells, average, f"{fmean(seconds):.2f}" if any(seconds) else "", passes])
    head = [f"{data} clean / static / adaptive" for data in (*SETS, "average")]
    return table(["method", *head, "s per image", "image passes"], lines)


def test_time_ablations() -> str:
    """A-TPT's ablations and the prompts, static attacks."""
    names = dict.fromkeys(line["method"] for line in stored("testtime-ablations"))
    lines = []
    for name in sorted(names, key=lambda name: ("atpt" not in name, name.endswith("rtpt"), name)):
        cells = [found("testtime-ablations", name, data) for data in ("eurosat", "flowers5")]
        figures = ["–" if line is None else per_cent(line, what) for line in cells for what in ("clean", "robust")]
        lines.append([name.removeprefix("zero_shot+"), *figures])
    return table(["", "eurosat clean", "eurosat static", "flowers5 clean", "flowers5 static"], lines)


def held_out(data: str) -> str:
    """Base and new classes, with harmonic means."""
    facts = f"backbone mini; 16 shots; {PGD.format('white-box')}; base-to-new"
    lines = []
    for method in ("zero_shot", "nap", "capt", "fap", "advmask", "tecoa"):
        halves = [found("generalisation", method, f"{data}-{half}", facts) for half in ("base", "new")]
        values = [Fraction(line[what]) for line in halves if line is not None for what in ("clean", "robust")]
        means = [harmonic(values[0::2]), harmonic(values[1::2]), harmonic(values)]
        lines.append([method, *[str(round(100 * value)) for value in (*values, *means)]])
    return table(["method", "base clean", "base robust", "new clean", "new robust", "H clean", "H robust", "H4"], lines)


def harmonic(values: Sequence[Fraction]) -> Fraction:
    return len(values) / sum((1 / value for value in values), Fraction()) if all(values) else Fraction()


def other_sets() -> str:
    """Learned on caltech101, measured on the other three."""
    facts = f"backbone mini; 16 shots; {PGD.format('white-box')}; learned on caltech101"
    methods = ("zero_shot", "nap", "capt", "fap", "apd", "advmaple", "advvlp", "adv_vpt", "avp_pixel", "advpt", "apt",
               "advmask", "tecoa")  # fmt: skip
    lines, others = [], ("eurosat", "flowers5", "clothing10")
    for method in methods:
        rows = [found("generalisation", method, data, facts) for data in ("caltech101", *others)]
        means = [tenths(mean([row[what] for row in rows[1:] if row is not None])) for what in ("clean", "robust")]
        lines.append([method, *[both(row) for row in rows], " / ".join(means)])
    head = [f"{data} clean / robust" for data in ("caltech101", *others)]
    return table(["method", *head, "average of the other three"], lines)


def fewer_shots() -> str:
    """Clean / robust with 1, 4 and 16 shots; "*": on 100 images and three seeds, from the prompts' file."""
    lines = []
    for method in ("zero_shot", "nap", "capt", "fap", "advmask", "tecoa"):
        cells = []
        for data in ("eurosat", "flowers5"):
            for shots in ("1 shot", "4 shots", "16 shots"):
                facts = f"backbone mini; {shots}; {PGD.format('white-box')}"
                own = found("generalisation", method, data, facts)
                more = None if own else found("representation", method, data, facts) or found("prompts", method, data, facts)
                cells.append(both(own or more) + ("*" if more and more["images"] == "100" else ""))
        lines.append([method, *cells])
    return table(["method", *[f"{data} {shots}" for data in ("eurosat", "flowers5") for shots in (1, 4, 16)]], lines)


BEFORE = {"nap": ("adamw", "0.001"), "tecoa": ("adamw", "0.0001"), "advmask": ("adamw", "0.0005")}
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


def autoattack() -> str:
    """AutoAttack at 1/255 on 30 images, with the counts under PGD-100 and under the adaptive suite of the method."""
    facts = "backbone mini; 16 shots; linf 1/255 white-box; AutoAttack"
    lines = []
    for counts in stored("autoattack"):
        line = (found("generalisation", counts["method"], "eurosat", facts)
                or found("representation", counts["method"], "eurosat", facts))  # fmt: skip
        assert line is not None, counts["method"]
        of = int(line["images"])
        right, left = (round(of * float(line[what])) for what in ("clean", "robust"))
        figure, _, bounds = share(left, of, 0).partition(" ")
        lines.append([counts["method"], str(right), counts["pgd_100"], f"{left}, {figure} % {bounds}", counts["adaptive"] or "="])
    return table(["method", "right", "after PGD-100", "after AutoAttack, of 30", "adaptive suite"], lines)


def standard_fast() -> str:
    """The default attack against the whole of AutoAttack, and what both cost."""
    lines = []
    for line in stored("standard-fast"):
        of, clean, whole, fast, pgd = (int(line[what]) for what in ("images", "clean", "autoattack", "standard_fast", "pgd_100"))
        passes = [int(line[f"passes_{attack}"]) for attack in ("autoattack", "standard_fast")]
        figures = [tenths(Fraction(count, of)) for count in (clean, whole, fast, pgd)]
        found = f"{line['found']} of {clean - whole}"
        lines.append([line["run"], *figures, found, *[f"{count:,}" for count in passes], f"{passes[0] / passes[1]:.0f}"])
    head = ["run", "clean %", "AutoAttack %", "standard-fast %", "PGD-100, cross-entropy %", "found, of what AutoAttack breaks",
            "passes, AutoAttack", "passes, standard-fast", "ratio"]  # fmt: skip
    return table(head, lines)


def audit_of_500() -> str:
    """The audit's worst case at three radii."""
    lines = []
    for line in stored("audit-500"):
        right, of = int(line["right"]), int(line["images"])
        figure, _, bounds = share(right, of).partition(" ")
        lines.append([line["radius"], f"{right} of {of}, {float(figure):g} % {bounds}", line["broken by"]])
    return table(["radius", "right under every attack", "broken by"], lines)


def demo() -> str:
    """An older run of the demo, 100 generated images."""
    lines = [
        [line["method"], line["backbone"], *[share(int(line[what]), int(line["images"])) for what in ("clean", "2/255")]]
        for line in stored("demo")
    ]
    return table(["method", "backbone", "clean %", "PGD-20 2/255 %, ≤"], lines)


README = ("zero_shot", "fap", "apd", "capt", "defeat", "advmask", "nap", "tecoa")
TABLES: dict[str, Callable[[], str]] = {
    "headline readme": partial(headline, "eurosat", README),
    "headline eurosat": partial(headline, "eurosat"),
    "headline flowers5": partial(headline, "flowers5"),
    "headline autoattack": partial(headline, "eurosat", attack="AutoAttack"),
    "headline seeds": headline_seeds,
    "headline defeat": headline_defeat,
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
    "test time": test_time,
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


if __name__ == "__main__":
    for page in WHOLE:
        page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
