"""Write a booktabs table for LaTeX.

It needs \\usepackage{booktabs} and, for names that are not ASCII, a UTF-8 engine.
"""

from collections.abc import Sequence

from ironclip.core.escapes import tex
from ironclip.report.cells import Cell, Grid, grid
from ironclip.report.tables import Row


def latex(table: Sequence[Row] | Grid, number: int = 0) -> str:
    """A `table` environment with the label tab:ironclip, and the number behind it where there are several."""
    marks = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}

    def write(cell: Cell) -> str:
        extra = " ".join(part for part in (cell.interval, f"({cell.note})" if cell.note else "") if part)
        option = "{}" if cell.text.lstrip().startswith(("[", "*")) else ""  # or the \\ before would take it for its own
        return option + marks[cell.rank].format(tex(cell.text)) + (rf" {{\scriptsize {tex(extra)}}}" if extra else "")

    cells = grid(table)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{tex(cells.caption)}}}", rf"\label{{tab:ironclip{number or ''}}}"]
    lines += [rf"\begin{{tabular}}{{{'l' * cells.words}{'r' * (len(cells.head) - cells.words)}}}", r"\toprule"]
    lines += [" & ".join(tex(title) for title in cells.head) + r" \\", r"\midrule"]
    for number, line in enumerate(cells.body):
        if number in cells.starts:
            lines.append(r"\midrule")
        lines.append(" & ".join(write(cell) for cell in line) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


FORMAT = latex
