"""Figures of the lessons as SVG: bars, lines and timelines, for light and dark pages."""

import math
from collections.abc import Mapping, Sequence
from html import escape

COLORS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#9d755d", "#3ba3a0", "#8a8f98")
STYLE = (
    "<style>.page{fill:#fff}.ink{fill:#1f2328}.axis{stroke:#8a8f98;fill:none}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117}.ink{fill:#e6edf3}}</style>"
)
LEFT, TOP, GAP = 16, 44, 28


def bars(title: str, panels: Mapping[str, Mapping[str, float]], width: int = 190) -> str:
    """Draws a panel of horizontal bars for each distribution, side by side.

    Args:
        title: of the figure.
        panels: headings to labels with probabilities; 0 draws a label without a bar.
        width: of the longest bar of a panel, in pixels.
    """
    shapes: list[str] = []
    label_width = 7 * max(len(label) for panel in panels.values() for label in panel) + 12
    scale = max(value for panel in panels.values() for value in panel.values())
    for number, (heading, panel) in enumerate(panels.items()):
        x = LEFT + number * (label_width + width + 44 + GAP)
        shapes.append(_text(x, TOP + 12, heading, bold=True))
        for row, (label, value) in enumerate(panel.items()):
            y = TOP + 24 + row * 22
            shapes.append(_text(x + label_width - 8, y + 13, label, anchor="end", mono=True))
            length = width * value / scale
            if value:
                shapes.append(_box(x + label_width, y, length, 16, COLORS[number % len(COLORS)]))
            percent = f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"
            shapes.append(_text(x + label_width + length + 6, y + 13, percent if value else "-"))
    num_rows = max(map(len, panels.values()))
    full = LEFT + len(panels) * (label_width + width + 44 + GAP)
    return _figure(title, full, TOP + 24 + 22 * num_rows + 16, shapes)


def lines(
    title: str,
    series: Mapping[str, Mapping[float, float]],
    x_label: str,
    y_label: str,
    *,
    is_log: bool = False,
) -> str:
    """Draws lines over common axes.

    Args:
        title: of the figure.
        series: names to x with their y.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        is_log: both axes are logarithmic, so all values are above 0.
    """
    width, height, x0, y0 = 520, 260, LEFT + 60, TOP + 24
    all_x = sorted({x for points in series.values() for x in points})
    top = max(y for points in series.values() for y in points.values())
    low = min(y for points in series.values() for y in points.values()) if is_log else 0.0
    y_ticks = _powers(low, top) if is_log else _round_ticks(top)
    x_low, x_high = (all_x[0], all_x[-1]) if is_log else (0.0, all_x[-1])
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x_of(x: float) -> float:
        return x0 + width * _share(x, x_low, x_high, is_log=is_log)

    def y_of(y: float) -> float:
        return y0 + height * (1 - _share(y, y_low, y_high, is_log=is_log))

    shapes = [f'<path class="axis" d="M{x0} {y0}V{y0 + height}H{x0 + width}"/>']
    for tick in y_ticks:
        y = y_of(tick)
        grid = f'<path class="axis" opacity="0.25" d="M{x0} {y:.1f}H{x0 + width}"/>'
        shapes += [grid, _text(x0 - 8, y + 4, f"{tick:g}", anchor="end")]
    for tick in all_x if len(all_x) < 12 else all_x[:: len(all_x) // 8]:
        shapes.append(_text(x_of(tick), y0 + height + 18, f"{tick:g}", anchor="middle"))
    shapes.append(_text(x0 + width / 2, y0 + height + 38, x_label, anchor="middle"))
    shapes.append(_text(LEFT, y0 - 10, y_label))
    ends = {name: y_of(points[max(points)]) for name, points in series.items()}
    label_y = -math.inf
    for name in sorted(ends, key=ends.__getitem__):
        label_y = ends[name] = max(ends[name], label_y + 15)  # labels do not overlap
    for number, (name, points) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in sorted(points.items()))
        shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"/>'
        )
        shapes.append(_text(x_of(max(points)) + 8, ends[name] + 4, name, color=color))
    name_width = 8 * max(map(len, series))
    return _figure(title, x0 + width + name_width + 2 * LEFT, y0 + height + 54, shapes)


def timeline(title: str, panels: Mapping[str, Sequence[Sequence[int | None]]]) -> str:
    """Draws for each panel which request holds each place in each step.

    Args:
        title: of the figure.
        panels: headings to rows, one for each place: the request in each step, or None.
    """
    num_steps = max(len(row) for rows in panels.values() for row in rows)
    cell = min(16.0, 760 / num_steps)
    shapes: list[str] = []
    y = float(TOP)
    for heading, rows in panels.items():
        shapes.append(_text(LEFT, y + 12, heading, bold=True))
        y += 22
        for row in rows:
            shapes += _runs(row, LEFT, y, cell)
            y += 20
        y += 16
    return _figure(title, LEFT * 2 + num_steps * cell, y, shapes)


def flow(title: str, lanes: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Draws steps in columns, with arrows between neighbours.

    Args:
        title: of the figure.
        lanes: headings of the columns.
        rows: directions of the arrows (`left...` or right) to the texts of a row, one a column;
            an empty one draws nothing.
    """
    width, space = 180, 44
    shapes: list[str] = []
    for column, lane in enumerate(lanes):
        x = LEFT + column * (width + space)
        shapes.append(_text(x + width / 2, TOP + 12, lane, anchor="middle", bold=True))
    for number, (direction, texts) in enumerate(rows.items()):
        y = TOP + 28 + number * 46
        for column, text in enumerate(texts):
            if not text:
                continue
            x = LEFT + column * (width + space)
            shapes.append(_box(x, y, width, 30, COLORS[number % len(COLORS)]))
            shapes.append(_text(x + width / 2, y + 20, text, anchor="middle", color="#fff"))
            if column and texts[column - 1]:
                shapes.append(_arrow(x - space + 6, x - 6, y + 15, direction.startswith("left")))
    full = 2 * LEFT + len(lanes) * (width + space) - space
    return _figure(title, full, TOP + 36 + 46 * len(rows), shapes)


def _arrow(left: float, right: float, y: float, points_left: bool) -> str:
    start, end, head = (right, left, 7) if points_left else (left, right, -7)
    path = f"M{start} {y}H{end}m{head} -5l{-head} 5l{head} 5"
    return f'<path class="axis" stroke-width="2" d="{path}"/>'


def _runs(row: Sequence[int | None], left: float, y: float, cell: float) -> list[str]:
    """Draws the runs of equal requests of one place, each as one box with its number."""
    shapes: list[str] = []
    start = 0
    for end in range(1, len(row) + 1):
        if end < len(row) and row[end] == row[start]:
            continue
        request, x, width = row[start], left + start * cell, (end - start) * cell
        if request is None:
            shapes.append(
                f'<rect class="axis" x="{x + 0.5:.1f}" y="{y}" width="{width - 1:.1f}" height="16"'
                ' rx="3" opacity="0.5" stroke-dasharray="3 3"/>'
            )
        else:
            shapes.append(_box(x + 0.5, y, width - 1, 16, COLORS[request % len(COLORS)]))
            if width >= 16:
                number = _text(x + width / 2, y + 12, str(request), anchor="middle", color="#fff")
                shapes.append(number)
        start = end
    return shapes


def _share(value: float, low: float, high: float, *, is_log: bool) -> float:
    if is_log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _powers(low: float, high: float) -> list[float]:
    """Returns the powers of ten around a range."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [10.0**exponent for exponent in exponents]


def _round_ticks(high: float) -> list[float]:
    """Returns about five round numbers from 0 to at least `high`."""
    step = 10.0 ** math.floor(math.log10(high / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if 5 * factor * step >= high)
    return [number * step for number in range(math.ceil(high / step) + 1)]


def _figure(title: str, width: float, height: float, shapes: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" font-family="sans-serif" font-size="13" role="img"'
        f' aria-label="{escape(title)}">'
    )
    page = f'<rect class="page" width="{width:.0f}" height="{height:.0f}" rx="6"/>'
    name = f'<text class="ink" x="{LEFT}" y="26" font-size="15">{escape(title)}</text>'
    return "\n".join([head, STYLE, page, name, *shapes, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float, color: str) -> str:
    size = f'width="{max(width, 1):.1f}" height="{height}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="3" fill="{color}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    color: str = "",
    bold: bool = False,
    mono: bool = False,
) -> str:
    style = f'fill="{color}"' if color else 'class="ink"'
    weight = ' font-weight="bold"' if bold else ""
    family = ' font-family="monospace"' if mono else ""
    return (
        f'<text {style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}{family}'
        f' xml:space="preserve">{escape(text)}</text>'
    )
