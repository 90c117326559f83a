"""Lines over time as an SVG file: a few panels below each other, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

WIDTH: Final = 860
HEIGHT: Final = 150
"""Of a panel, in pixels."""
LEFT: Final = 60
RIGHT: Final = 90
TOP: Final = 30
BOTTOM: Final = 26
TICKS: Final = 4
COLOURS: Final = ("#c0392b", "#2c3e50", "#2980b9")
MAX_POINTS: Final = 600
"""Of a line; more could not be told apart."""


class Series(NamedTuple):
    """One line."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]


class Panel(NamedTuple):
    """One pair of axes. `marks`: vertical lines, with what begins there."""

    title: str
    series: Sequence[Series]
    marks: Sequence[tuple[float, str]] = ()


def write_plot(path: Path, title: str, x_label: str, panels: Sequence[Panel]) -> None:
    """Write the file."""
    height = 40 + len(panels) * (HEIGHT + TOP + BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, 30 + number * (HEIGHT + TOP + BOTTOM), x_label)
    path.write_text("\n".join([*parts, "</svg>", ""]), "utf-8")


def _panel(panel: Panel, top: int, x_label: str) -> list[str]:
    right, low, high = WIDTH - RIGHT, top + TOP + HEIGHT, top + TOP
    last = max((x for line in panel.series for x in line.xs), default=1.0) or 1.0
    most = _round_up(max((y for line in panel.series for y in line.ys), default=1.0))

    def place(x: float, y: float) -> str:
        return f"{LEFT + x / last * (right - LEFT):.1f},{low - y / most * HEIGHT:.1f}"

    parts = [f'<text x="{LEFT}" y="{high - 8}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in range(TICKS + 1):
        y = low - tick / TICKS * HEIGHT
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * tick / TICKS:.4g}</text>')
        x = LEFT + tick / TICKS * (right - LEFT)
        parts.append(f'<text x="{x:.1f}" y="{low + 14}" text-anchor="middle">{last * tick / TICKS:.3g}</text>')
    parts.append(f'<text x="{right + 6}" y="{low + 14}">{escape(x_label)}</text>')
    for at, what in panel.marks:
        x = LEFT + at / last * (right - LEFT)
        parts.append(f'<line x1="{x:.1f}" y1="{high}" x2="{x:.1f}" y2="{low}" stroke="#999" stroke-dasharray="3 3"/>')
        parts.append(f'<text x="{x + 3:.1f}" y="{high + 10}" fill="#666">{escape(what)}</text>')
    for number, line in enumerate(panel.series):
        colour = COLOURS[number % len(COLOURS)]
        step = max(1, len(line.xs) // MAX_POINTS)
        points = " ".join(place(x, y) for x, y in zip(line.xs[::step], line.ys[::step], strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        parts.append(f'<text x="{right + 6}" y="{high + 12 + 14 * number}" fill="{colour}">{escape(line.label)}</text>')
    return parts


def _round_up(value: float) -> float:
    """To a number that divides well."""
    if value <= 0:
        return 1.0
    size = 1.0
    while size * 10 <= value:
        size *= 10
    while size > value:
        size /= 10
    return next(size * step for step in (1, 2, 4, 5, 6, 8, 10) if size * step >= value)
