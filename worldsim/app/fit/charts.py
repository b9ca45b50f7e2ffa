"""Charts of the page as SVG: lines, and points beside a diagonal. Colours are the page's."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 40
"""Margins, in the chart's units."""
TICKS = 5
"""Ticks of an axis, about."""
Points = Sequence[tuple[float, float]]


def line_chart(series: Mapping[str, Points], x_name: str, y_name: str) -> str:
    """Return a chart of lines (x, y) by name; empty without two finite points."""
    known = {name: _finite(points) for name, points in series.items()}
    known = {name: points for name, points in known.items() if len(points) > 1}
    if not known:
        return ""
    frame = _Frame([p for points in known.values() for p in points], x_name, y_name)
    lines = [
        f'<polyline class="line c{i}" points="{" ".join(map(frame.place, points))}"/>'
        for i, points in enumerate(known.values())
    ]
    return frame.draw(lines) + _legend(list(known))


def diagonal_chart(points: Mapping[str, tuple[float, float]], x_name: str, y_name: str) -> str:
    """Return a chart of named points (x, y) with the diagonal, on which both are equal."""
    known = {name: p for name, p in points.items() if _finite([p])}
    if not known:
        return ""
    values = [value for point in known.values() for value in point]
    ends = [(min(values), min(values)), (max(values), max(values))]
    frame = _Frame(ends, x_name, y_name)
    marks = [f'<polyline class="diagonal" points="{" ".join(map(frame.place, ends))}"/>']
    for name, point in known.items():
        x, y = frame.place(point).split(",")
        marks.append(
            f'<circle class="point" cx="{x}" cy="{y}" r="5"><title>{html.escape(name)}: '
            f"{point[0]:.4g}, {point[1]:.4g}</title></circle>"
        )
    return frame.draw(marks)


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


class _Frame:
    """The axes of a chart, around the range of some points."""

    def __init__(self, points: Points, x_name: str, y_name: str) -> None:
        self.x = _axis([x for x, _ in points])
        self.y = _axis([y for _, y in points])
        self.names = (x_name, y_name)

    def place(self, point: tuple[float, float]) -> str:
        """Return the place of a point as ``x,y``."""
        x = LEFT + (point[0] - self.x[0]) / (self.x[-1] - self.x[0]) * (WIDTH - LEFT - RIGHT)
        y = TOP + (self.y[-1] - point[1]) / (self.y[-1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def draw(self, marks: Sequence[str]) -> str:
        """Return the chart with these marks."""
        parts = []
        for value in self.x:
            x = self.place((value, self.y[0])).split(",")[0]
            parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 17}" class="mid">{value:g}</text>')
        for value in self.y:
            y = self.place((self.x[0], value)).split(",")[1]
            parts.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
                f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" class="end">{value:g}</text>'
            )
        x_name, y_name = map(html.escape, self.names)
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" class="mid">{x_name}</text>'
            f'<text transform="translate(13 {middle}) rotate(-90)" class="mid">{y_name}</text>'
        )
        label = f"{y_name} over {x_name}"
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f"{''.join([*parts, *marks])}</svg>"
        )


def _axis(values: Sequence[float]) -> list[float]:
    """Return round ticks that enclose the values, at least two."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / TICKS
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if size * m >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<span><i class="c{i}"></i>{html.escape(name)}</span>' for i, name in enumerate(names)
    )
    return f'<p class="legend">{items}</p>'
