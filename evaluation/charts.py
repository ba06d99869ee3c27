"""Drawings for reports, as SVG text: lines, and values with intervals."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

COLOURS = ("#2f6fb0", "#d1690e", "#4b8f4b", "#8a5aa8")
WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 32, 44
# Rough width of a letter, for names that stand side by side.
LETTER = 7.2
ROW = 26
LABEL = 190

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart.

    Attributes:
        label: At the left.
        value: The mark.
        low: Lower end of the bar.
        high: Upper end.
        floor: Shown as a hollow mark; None where there is none.
    """

    label: str
    value: float
    low: float
    high: float
    floor: float | None = None


def line_chart(
    lines: Mapping[str, Points],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Mapping[str, float] | None = None,
) -> str:
    """Lines with a legend.

    Args:
        lines: Points per name.
        x_label: Below.
        y_label: At the left.
        x_range: Ends of the axis; None takes those of the points.
        y_range: Likewise.
        marks: Dashed vertical lines by name.

    Returns:
        SVG text.
    """
    marks = marks or {}
    xs = [x for points in lines.values() for x, _ in points] + list(marks.values())
    ys = [y for points in lines.values() for _, y in points]
    x0, x1 = _ends(x_range or (min(xs), max(xs)))
    y0, y1 = _ends(y_range or (min(0.0, *ys), max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [_frame(place, (x0, x1), (y0, y1), x_label, y_label)]
    legend: dict[str, str] = {}
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        legend[name] = colour
    for name, x in marks.items():
        (across, top), bottom = place(x, y1), HEIGHT - BOTTOM
        line = f'x1="{across:.1f}" x2="{across:.1f}" y1="{top:.1f}" y2="{bottom}"'
        parts.append(f'<line {line} stroke="currentColor" stroke-dasharray="4 3"/>')
        legend[f"- - {name}"] = "currentColor"
    parts.append(_legend(legend))
    return _svg(WIDTH, HEIGHT, parts, f"{y_label} against {x_label}")


def scatter_chart(points: Mapping[str, Points], *, x_label: str, y_label: str) -> str:
    """Points with a legend, both axes from 0 to the largest value, and the diagonal.

    Args:
        points: Points per name, none below 0.
        x_label: Below.
        y_label: At the left.

    Returns:
        SVG text.
    """
    ends = _ends((0.0, max([value for each in points.values() for point in each for value in point], default=1.0)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / ends[1] * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - y / ends[1] * (HEIGHT - TOP - BOTTOM)

    parts = [_frame(place, ends, ends, x_label, y_label)]
    (x1, y1), (x2, y2) = place(0.0, 0.0), place(ends[1], ends[1])
    line = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    parts.append(f'<line {line} stroke="currentColor" stroke-dasharray="4 3" opacity=".5"/>')
    for number, each in enumerate(points.values()):
        for x, y in (place(*point) for point in each):
            fill = f'fill="{COLOURS[number % len(COLOURS)]}" fill-opacity=".7"'
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {fill}/>')
    parts.append(_legend({name: COLOURS[number % len(COLOURS)] for number, name in enumerate(points)}))
    return _svg(WIDTH, HEIGHT, parts, f"{y_label} against {x_label}")


def interval_chart(rows: Sequence[Interval], *, x_label: str, x_range: tuple[float, float] | None = None) -> str:
    """Values with intervals below each other, and their floors as hollow marks.

    Args:
        rows: At least one.
        x_label: Below.
        x_range: Ends of the axis; None takes those of the values and 0.

    Returns:
        SVG text.
    """
    values = [v for row in rows for v in (row.low, row.high, row.value, row.floor) if v is not None]
    x0, x1 = _ends(x_range or (min(0.0, *values), max(values)))
    width, height = WIDTH + LABEL, ROW * len(rows) + BOTTOM

    def place(x: float) -> float:
        return LABEL + (x - x0) / (x1 - x0) * (width - LABEL - RIGHT)

    parts = []
    for tick in _ticks(x0, x1):
        x = place(tick)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{ROW * len(rows)}" stroke="currentColor" opacity=".15"/>'
        )
        parts.append(_words(x, ROW * len(rows) + 16, f"{tick:g}", "middle"))
    for number, row in enumerate(rows):
        y = ROW * number + ROW / 2
        parts.append(_words(LABEL - 8, y + 4, row.label, "end"))
        bar = f'x1="{place(row.low):.1f}" x2="{place(row.high):.1f}" y1="{y}" y2="{y}"'
        parts.append(f'<line {bar} stroke="{COLOURS[0]}" stroke-width="2"/>')
        parts.append(f'<circle cx="{place(row.value):.1f}" cy="{y}" r="4" fill="{COLOURS[0]}"/>')
        if row.floor is not None:
            ring = f'cx="{place(row.floor):.1f}" cy="{y}" r="4" fill="none" stroke="{COLOURS[1]}" stroke-width="1.6"'
            parts.append(f"<circle {ring}/>")
    parts.append(_words((LABEL + width) / 2, height - 6, x_label, "middle"))
    return _svg(width, height, parts, x_label)


def _svg(width: int, height: int, parts: Sequence[str], description: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{html.escape(description)}" font-size="12">{"".join(parts)}</svg>'
    )


def _words(x: float, y: float, words: str, anchor: str, rotate: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if rotate else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{turn}>{html.escape(words)}</text>'


def _legend(names: Mapping[str, str]) -> str:
    """Names in their colours, side by side above the drawing, where no line runs."""
    x, parts = float(LEFT), []
    for name, colour in names.items():
        parts.append(f'<text x="{x:.0f}" y="18" fill="{colour}" font-weight="600">{html.escape(name)}</text>')
        x += LETTER * (len(name) + 2)
    return "".join(parts)


def _frame(
    place: Callable[[float, float], tuple[float, float]],
    x_ends: tuple[float, float],
    y_ends: tuple[float, float],
    x_label: str,
    y_label: str,
) -> str:
    """Grid, numbers and names of two axes."""
    parts = []
    for tick in _ticks(*x_ends):
        x, y = place(tick, y_ends[0])
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{TOP}" stroke="currentColor" opacity=".15"/>')
        parts.append(_words(x, y + 16, f"{tick:g}", "middle"))
    for tick in _ticks(*y_ends):
        x, y = place(x_ends[0], tick)
        parts.append(
            f'<line x1="{x:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".15"/>'
        )
        parts.append(_words(x - 6, y + 4, f"{tick:g}", "end"))
    parts.append(_words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    parts.append(_words(14, (TOP + HEIGHT - BOTTOM) / 2, y_label, "middle", rotate=True))
    return "".join(parts)


def _ends(ends: tuple[float, float]) -> tuple[float, float]:
    """Ends of an axis; a single value gets some room."""
    low, high = ends
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends, about five."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]
