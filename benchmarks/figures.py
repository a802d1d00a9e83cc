"""Charts as one SVG that stands alone: on white paper, one below the other."""

from collections.abc import Sequence

from ironclip.report.svg import HEIGHT, WIDTH


def alone(charts: Sequence[str], margin: int) -> str:
    """One SVG of charts; `margin` is room at the right for a last tick that is wider than what a chart leaves for it."""
    placed = []
    for number, drawn in enumerate(charts):
        place = f'<svg y="{HEIGHT * number}" width="{WIDTH}" height="{HEIGHT}" overflow="visible" '
        placed.append(drawn.replace("<svg ", place, 1))
    wide, high = WIDTH + margin, HEIGHT * len(charts)
    size = f'viewBox="0 0 {wide} {high}" width="{wide}" height="{high}"'
    paper = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{paper}{"".join(placed)}</svg>\n'
