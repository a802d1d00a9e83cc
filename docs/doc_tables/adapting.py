"""Tables of test-time methods: what each reports about itself beside what an attack that knows it leaves."""

from collections.abc import Callable

from doc_tables.reading import Stored, found, interval, per_cent, stored, table


def adapted(wanted: Callable[[Stored], bool]) -> list[tuple[Stored, Stored]]:
    """(static, adaptive) of the test-time methods where both were measured, the most robust by its own report first."""
    found: dict[tuple[str, ...], dict[str, Stored]] = {}
    for line in filter(wanted, stored("testtime-adaptive")):
        knowledge = line["threat"].partition(" ")[0]
        found.setdefault((line["method"], line["data"], line["eps"]), {})[knowledge] = line
    pairs = [(sides["static"], sides["adaptive"]) for sides in found.values() if len(sides) == 2]
    return sorted(pairs, key=lambda pair: [-float(pair[0]["robust"]), float(pair[1]["robust"]), pair[0]["method"]])


def three_numbers(static: Stored, adaptive: Stored) -> list[str]:
    """Clean, static and adaptive accuracy in per cent, each with its interval."""
    clean, reported = (f"{per_cent(static, what, 0)} {interval(static, what, 0)}" for what in ("clean", "robust"))
    return [clean, reported, f"**{per_cent(adaptive, 'robust', 0)}** {interval(adaptive, 'robust', 0)}"]


def plain(line: Stored) -> str:
    """The name of a method without its base and its options."""
    return line["method"].removeprefix("zero_shot+").split(" ")[0]


NUMBERS = ["clean %", "static %", "adaptive %"]


def test_time(data: str, eps: str) -> str:
    """The test-time methods on one data set at one radius, and what an answer costs."""
    lines = []
    for static, adaptive in adapted(lambda line: (line["data"], line["eps"]) == (data, f"linf {eps}")):
        forward, backward = (f"{float(static[f'{way}_passes']):.0f}" for way in ("forward", "backward"))
        passes = f"{forward} + {backward} back" if backward != "0" else "1" if forward == "0" else forward
        lines.append([static["method"].removeprefix("zero_shot+"), *three_numbers(static, adaptive), passes])
    return table(["method", *NUMBERS, "image passes"], lines)


def test_time_of(method: str) -> str:
    """One test-time method, and its variants, wherever it was measured."""
    pairs = adapted(lambda line: plain(line) == method)
    pairs.sort(key=lambda pair: (pair[0]["method"], pair[0]["data"], pair[0]["eps"]))
    lines = [
        [static["method"].removeprefix("zero_shot+"), static["data"], static["eps"], *three_numbers(static, adaptive)]
        for static, adaptive in pairs
    ]
    return table(["method", "data", "radius", *NUMBERS], lines)


def test_time_ablations() -> str:
    """A-TPT's ablations and the prompts, static attacks."""
    names = dict.fromkeys(line["method"] for line in stored("testtime-ablations"))
    lines = []
    for name in sorted(names, key=lambda name: ("atpt" not in name, name.endswith("rtpt"), name)):
        cells = [found("testtime-ablations", name, data) for data in ("eurosat", "flowers5")]
        figures = ["–" if line is None else per_cent(line, what) for line in cells for what in ("clean", "robust")]
        lines.append([name.removeprefix("zero_shot+"), *figures])
    return table(["", "eurosat clean", "eurosat static", "flowers5 clean", "flowers5 static"], lines)


MEASURED = sorted({plain(static) for static, _ in adapted(lambda line: line["method"] != "zero_shot")})
"""The test-time methods with both numbers; each has a section of its own in `methods.md`."""
