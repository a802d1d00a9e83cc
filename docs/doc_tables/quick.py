"""Tables of the older runs with quick presets at 1/255: prompts, representations, shots, classes and sets."""

from collections.abc import Sequence
from fractions import Fraction
from statistics import fmean

from doc_tables.reading import PGD, SETS, both, found, harmonic, interval, mean, per_cent, stored, table, tenths
from ironclip.records.statistics import mcnemar

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
