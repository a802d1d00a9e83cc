"""Reports from records: tables for people, papers and programs, charts, and one self-contained HTML page.

`read` turns a run folder into views, `page` views into HTML, `rows` records into a table that `terminal`, `markdown`,
`latex`, `as_csv` and `as_json` write. Everything here is a pure function but `read`; writing files is the caller's.
"""

from ironclip.report.cells import as_csv, as_json, terminal
from ironclip.report.formats.latex import latex
from ironclip.report.formats.markdown import markdown
from ironclip.report.page import page
from ironclip.report.tables import Row, caption, rows
from ironclip.report.views import Panel, Point, RunView, curve, panels, read

__all__ = [
    "Panel",
    "Point",
    "Row",
    "RunView",
    "as_csv",
    "as_json",
    "caption",
    "curve",
    "latex",
    "markdown",
    "page",
    "panels",
    "read",
    "rows",
    "terminal",
]
