"""Figures as SVG that belongs to the page: its colours and its font, so that they are at home in light and dark."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib wants colours of its own; these stand for the page's custom properties and become them in the end.
INK, GRID, PERCEIVED, TRUE, ERROR, OTHER, MORE = (f"#0{i}0{i}0{i}" for i in range(1, 8))
_PROPERTIES = {
    INK: "--ink",
    GRID: "--grid",
    PERCEIVED: "--perceived",
    TRUE: "--true",
    ERROR: "--error",
    OTHER: "--other",
    MORE: "--more",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vlm3",
    "font.size": 9.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.4,
}
_number = itertools.count()


class Drawing:
    """A figure under way; ``svg`` is there when the block of `drawing` has ended."""

    svg = ""

    def __init__(self, figure: Figure, axes: list[Axes]):
        self.figure, self.axes = figure, axes


@contextmanager
def drawing(
    says: str, size: tuple[float, float], rows: int = 1, columns: int = 1, **layout: Any
) -> Iterator[Drawing]:
    """A figure of ``size`` in inches with axes from left to right and from top to bottom; ``says`` what it shows."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        found = Drawing(figure, list(figure.subplots(rows, columns, squeeze=False, **layout).flat))
        yield found
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    found.svg = _inline(text.getvalue(), says)


def _inline(svg: str, says: str) -> str:
    """An SVG file as an element of a page that may hold several."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    mark = f"f{next(_number)}-"
    svg = re.sub(r'\bid="', f'id="{mark}', svg)
    svg = re.sub(r'href="#', f'href="#{mark}', svg).replace("url(#", f"url(#{mark}")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, name in _PROPERTIES.items():
        svg = svg.replace(colour, f"var({name})")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    head = f'<svg viewBox="0 0 {size[1]} {size[2]}" role="img" style="max-width: {float(size[1]) * 1.333:.0f}px">'
    return re.sub(r"<svg[^>]*>", f"{head}<title>{escape(says)}</title>", svg, count=1)
