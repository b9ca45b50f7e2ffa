"""Curves in a grid of panels, drawn with Pillow: a few experiments need them, and no plotting
library is a dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from worldsim.io.pictures import BACKGROUND, INK

WIDTH, HEIGHT = 460, 240
MARGINS = (66, 30, 14, 26)
"""Of a panel: left, top, right, bottom, in pixels."""
COLOURS = ((255, 170, 60), (90, 190, 255), (150, 220, 120), (230, 110, 160))
"""Of the kinds of curves, in their order."""
SMOOTH = 2
"""Everything is drawn so many times larger, then made smaller: Pillow's lines have hard edges."""
FAINT, STRONG = 1, 3


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    curves: by kind, each a list of (x, y) sequences of equal length; nan breaks a line. bold: kinds
    drawn strong. band: the range shaded across the panel, with the colour of kind ``band_kind``.
    """

    title: str
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
    bold: Sequence[str] = ()
    band: tuple[float, float] | None = None
    band_kind: str = ""
    zero: bool = field(default=False)
    """Whether the y axis begins at 0."""


def draw_panels(
    panels: Sequence[Panel], kinds: Sequence[str], x_label: str, columns: int = 3
) -> NDArray[np.uint8]:
    """All panels with a legend on top, (h, w, 3) uint8. kinds: names of curves, in the colours'
    order."""
    colour = dict(zip(kinds, COLOURS, strict=False))
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    sheet = Image.new("RGB", (SMOOTH * WIDTH * columns, SMOOTH * (HEIGHT * rows + 34)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = 14 * SMOOTH
    for name in kinds:
        draw.line([(x, 17 * SMOOTH), (x + 26 * SMOOTH, 17 * SMOOTH)], colour[name], STRONG * SMOOTH)
        draw.text((x + 32 * SMOOTH, 8 * SMOOTH), name, INK, _font(14))
        x += round(_font(14).getlength(name)) + 56 * SMOOTH
    for i, panel in enumerate(panels):
        _panel(
            draw,
            panel,
            (i % columns * WIDTH * SMOOTH, (34 + i // columns * HEIGHT) * SMOOTH),
            colour,
            x_label,
        )
    return np.asarray(
        sheet.resize((sheet.width // SMOOTH, sheet.height // SMOOTH), Image.Resampling.BOX)
    )


def _panel(
    draw: ImageDraw.ImageDraw,
    panel: Panel,
    corner: tuple[int, int],
    colour: Mapping[str, tuple],
    x_label: str,
) -> None:
    left, top, right, bottom = (SMOOTH * m for m in MARGINS)
    x0, y0 = corner[0] + left, corner[1] + top
    x1, y1 = corner[0] + SMOOTH * WIDTH - right, corner[1] + SMOOTH * HEIGHT - bottom
    lines = [
        (name, np.asarray(x, float), np.asarray(y, float))
        for name, many in panel.curves.items()
        for x, y in many
    ]
    ys = np.concatenate([y for _, _, y in lines] + [np.array(panel.band or (np.nan,), float)])
    ys = ys[np.isfinite(ys)] if np.isfinite(ys).any() else np.zeros(1)
    low, high = min(float(ys.min()), 0.0) if panel.zero else float(ys.min()), float(ys.max())
    space = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low if panel.zero and low == 0 else low - space, high + space
    end = max(float(x.max()) for _, x, _ in lines)

    def place(x: float, y: float) -> tuple[float, float]:
        return x0 + (x1 - x0) * x / end, y1 - (y1 - y0) * (y - low) / (high - low)

    if panel.band is not None:
        shade = tuple(
            round(0.72 * b + 0.28 * c)
            for b, c in zip(BACKGROUND, colour[panel.band_kind], strict=True)
        )
        draw.rectangle([place(0, panel.band[1]), place(end, panel.band[0])], shade)
    for value in _ticks(low, high):
        draw.line([place(0, value), place(end, value)], (60, 60, 66), SMOOTH)
        text = f"{value:,.10g}"
        draw.text(
            (x0 - _font(12).getlength(text) - 5 * SMOOTH, place(0, value)[1] - 8 * SMOOTH),
            text,
            INK,
            _font(12),
        )
    for name, x, y in lines:
        width, ink = (STRONG, colour[name]) if name in panel.bold else (FAINT, colour[name])
        for run in np.split(np.arange(len(x)), np.flatnonzero(~np.isfinite(y))):
            points = [place(x[i], y[i]) for i in run if np.isfinite(y[i])]
            if len(points) > 1:
                draw.line(points, ink, width * SMOOTH, joint="curve")
            for u, v in points[:1] if len(points) == 1 else ():
                draw.ellipse([u - 2 * SMOOTH, v - 2 * SMOOTH, u + 2 * SMOOTH, v + 2 * SMOOTH], ink)
    draw.rectangle([x0, y0, x1, y1], outline=(110, 110, 118), width=SMOOTH)
    draw.text((x0, corner[1] + 8 * SMOOTH), panel.title, INK, _font(14))
    for value in _ticks(0.0, end):
        text = f"{value:,.10g}"
        if value < 0.9 * end:
            draw.text(
                (place(value, low)[0] - _font(12).getlength(text) / 2, y1 + 4 * SMOOTH),
                text,
                INK,
                _font(12),
            )
    draw.text((x1 - _font(12).getlength(x_label), y1 + 4 * SMOOTH), x_label, INK, _font(12))


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between two."""
    raw = (high - low) / 4.0
    power = 10.0 ** np.floor(np.log10(raw))
    step = float(power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(m * power - raw)))
    return [
        round(i * step, 10) + 0.0
        for i in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)
    ]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SMOOTH * size)
