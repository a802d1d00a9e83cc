"""Tables of attacks and audits."""

from fractions import Fraction

from doc_tables.reading import found, share, stored, table, tenths


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
