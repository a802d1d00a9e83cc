"""The result of `evaluate`: records, and their forms for people."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ironclip.core.errors import UsageError
from ironclip.core.shown import number_of
from ironclip.records.record import Record
from ironclip.report import web
from ironclip.report.cells import as_csv, plain
from ironclip.report.formats.latex import latex
from ironclip.report.formats.markdown import markdown
from ironclip.report.tables import rows

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Result:
    """Records of one or several models. A notebook shows them as a table; `+` puts two results together."""

    records: tuple[Record, ...]

    def table(self, form: Literal["markdown", "latex", "csv"] = "markdown") -> str:
        """All records as one table; accuracies with their 95 % intervals."""
        return {"markdown": markdown, "latex": latex, "csv": as_csv}[form](rows(self.records))

    def to_pandas(self) -> "DataFrame":
        """One row per record, accuracies as fractions with their intervals; the columns are those of the CSV table.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError('to_pandas needs pandas; install it with: pip install "ironclip[pandas]"') from None
        return pandas.DataFrame([plain(row) for record in self.records for row in rows([record])])

    def plot(self, file: str | Path | None = None) -> Any:
        """A matplotlib figure of clean and robust accuracy with their 95 % intervals; a notebook shows it.

        Over the radius where one classifier was measured at several, else one line per record.

        Args:
            file: also written there, in the format of its ending: .pdf, .pgf, .png or .svg.

        Raises:
            UsageError: no record, matplotlib is not installed, or another ending.
        """
        try:
            from ironclip.report.plots import figure, save
        except ImportError:
            raise UsageError('plot needs matplotlib; install it with: pip install "ironclip[report]"') from None
        drawn = figure(self.records)
        if file is not None:
            save(drawn, Path(file))
        return drawn

    def __add__(self, other: "Result") -> "Result":
        return Result(self.records + other.records)

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))

    def __repr__(self) -> str:
        return f"Result({number_of(len(self.records), 'record')})"

    def _repr_html_(self) -> str:
        said: dict[str, list[str]] = {}
        for record in self.records:
            for flag in record.flags:
                if flag.level != "note":
                    said.setdefault(f"{flag.level}: {flag.text}", []).append(record.method)
        notes = [f"{text} ({', '.join(dict.fromkeys(methods))})" for text, methods in said.items()]
        return web.notebook(rows(self.records), notes)
