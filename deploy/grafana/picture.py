"""Draws the dashboard like Grafana, from the answers of a real Prometheus. Needs matplotlib."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from deploy.grafana import dashboard
from deploy.grafana.dashboard import COLORS, COLUMNS, ROWS, Panel

BACKGROUND, PAPER, INK, FAINT = "#111217", "#181b1f", "#d0d3d8", "#2c3036"
NAMED = {"green": "#73bf69", "yellow": "#fade2a", "orange": "#ff9830", "red": "#f2495c"}
NAMED["blue"] = "#5794f2"
PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#705da0"]
UNITS = {"reqps": " req/s", "ops": "/s", "s": " s", "short": ""}
WIDTH_INCHES, GRID_ROW_INCHES = 19.0, 0.36
CHARACTERS_A_COLUMN = 13  # of a legend in a column of the grid


class Series(Protocol):
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def points(self) -> list[tuple[float, float]]: ...


class Answer(Protocol):
    @property
    def legend(self) -> str: ...
    @property
    def series(self) -> Sequence[Series]: ...


def draw(answers: Mapping[str, Sequence[Answer]], path: Path) -> None:
    """Draws all panels at Grafana's places.

    Args:
        answers: answers to each panel's queries, by its title.
        path: path of the PNG.
    """
    placed = dashboard.create()["panels"]
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in placed)
    figure = plt.figure(
        figsize=(WIDTH_INCHES, (height + 1) * GRID_ROW_INCHES), facecolor=BACKGROUND
    )
    panels = {panel.title: panel for panels in ROWS.values() for panel in panels}
    times = [
        when
        for each in answers.values()
        for one in each
        for s in one.series
        for when, _ in s.points
    ]
    span = (min(times), max(times))
    for one in placed:
        if one["type"] == "row":
            _write_row(figure, one, height)
        else:
            panel = panels[one["title"]]
            _draw_panel(_axes(figure, one["gridPos"], height), panel, answers[panel.title], span)
    figure.savefig(path, dpi=80, facecolor=BACKGROUND)
    plt.close(figure)


def _write_row(figure: Figure, row: dict[str, Any], height: int) -> None:
    y = 1 - (row["gridPos"]["y"] + 0.75) / (height + 1)
    figure.text(0.006, y, row["title"], color="white", fontsize=15, fontweight="bold", va="center")


def _axes(figure: Figure, position: dict[str, int], height: int) -> Axes:
    """Creates the panel's plot, with room around it for its title, its axis and its legend."""
    row = 1 / (height + 1)
    left, width = position["x"] / COLUMNS, position["w"] / COLUMNS
    bottom = 1 - (position["y"] + position["h"]) * row
    gap = 0.003
    frame = figure.add_axes(
        (left + gap, bottom + gap / 2, width - 2 * gap, position["h"] * row - gap)
    )
    frame.set_facecolor(PAPER)
    frame.set(xticks=[], yticks=[])
    for spine in frame.spines.values():
        spine.set_color(FAINT)
    is_low = position["h"] < 6
    return figure.add_axes(
        (
            left + 0.032,
            bottom + (0.9 if is_low else 2.1) * row,
            width - 0.042,
            (position["h"] - (2.3 if is_low else 3.4)) * row,
        )
    )


def _draw_panel(
    axes: Axes, panel: Panel, answers: Sequence[Answer], span: tuple[float, float]
) -> None:
    axes.set_facecolor(PAPER)
    axes.set_title(panel.title, color=INK, fontsize=10, loc="left", x=-0.02, pad=7)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel.kind == "stat":
        _draw_number(axes, panel, answers)
        return
    if panel.kind == "bargauge":
        _draw_bars(axes, panel, answers)
        return
    axes.set_xlim(0, span[1] - span[0])
    axes.xaxis.set_major_locator(MaxNLocator(max(3, panel.width * 3 // 4)))
    # Without the 0, which would overlap the y axis' own.
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0f} s" if value else "")
    )
    if panel.kind == "state-timeline":
        _draw_states(axes, answers, span[0])
        return
    axes.grid(color=FAINT, linewidth=0.8)
    _draw_lines(axes, panel, answers, span[0])
    axes.set_ylim(0, panel.maximum or max(axes.get_ylim()[1], 1e-9))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=False))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _with_unit(value, panel.unit)))
    longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.03, -0.12),
        ncol=max(1, panel.width * CHARACTERS_A_COLUMN // (longest + 5)),
        frameon=False, labelcolor=INK, fontsize=8, handlelength=1, columnspacing=1, borderpad=0,
    )  # fmt: skip


def _draw_number(axes: Axes, panel: Panel, answers: Sequence[Answer]) -> None:
    value = answers[0].series[0].points[-1][1]
    is_bad = value == 0 if panel.is_up else value >= (panel.red_from or math.inf)
    axes.set(xticks=[], yticks=[])
    color = NAMED["red" if is_bad else "green"]
    axes.text(0.5, 0.4, f"{value:.0f}", color=color, fontsize=30, ha="center", va="center")


def _draw_bars(axes: Axes, panel: Panel, answers: Sequence[Answer]) -> None:
    """Draws the last value of each series, with its name above."""
    (answer,) = answers
    (label,) = (one.removesuffix("}}") for one in answer.legend.split("{{")[1:])
    shown = [(one.labels[label], one.points[-1][1]) for one in answer.series if one.points]
    longest = max(value for _, value in shown)
    for number, (name, value) in enumerate(shown):
        axes.barh(-number, longest, height=0.28, color=FAINT)
        axes.barh(-number, value, height=0.28, color=NAMED["blue"])
        axes.text(0, 0.16 - number, name, color=INK, fontsize=8, va="bottom")
        text = _with_unit(value, panel.unit)
        axes.text(longest * 1.03, -number, text, color=NAMED["blue"], fontsize=9, va="center")
    axes.set(xticks=[], yticks=[], xlim=(0, longest * 1.25), ylim=(0.4 - len(shown), 0.9))


def _draw_states(axes: Axes, answers: Sequence[Answer], start: float) -> None:
    for number, series in enumerate(answers[0].series):
        for when, value in series.points:
            color = NAMED[("red", "yellow", "green")[round(value)]]
            axes.barh(number, 1, left=when - start, height=0.8, color=color)
        axes.text(
            series.points[0][0] - start + 1,
            number,
            series.labels["instance"],
            fontsize=9,
            va="center",
        )
    axes.set_yticks([])


def _draw_lines(axes: Axes, panel: Panel, answers: Sequence[Answer], start: float) -> None:
    lines: dict[str, dict[float, float]] = {}
    for answer in answers:
        for series in answer.series:
            name = answer.legend
            for label, value in series.labels.items():
                name = name.replace(f"{{{{{label}}}}}", value)
            lines[name] = {when - start: value for when, value in series.points}
    colors = [_color(name, number) for number, name in enumerate(lines)]
    if panel.is_stacked:
        times = sorted({when for line in lines.values() for when in line})
        values = [[line.get(when, 0.0) for when in times] for line in lines.values()]
        axes.stackplot(times, values, labels=list(lines), colors=colors, alpha=0.75)
        return
    for (name, line), color in zip(lines.items(), colors, strict=True):
        # A gap for times without data, as in Grafana.
        times, values = _with_gaps(line)
        axes.plot(times, values, label=name, color=color, linewidth=1.5)


def _with_gaps(line: dict[float, float]) -> tuple[list[float], list[float]]:
    times: list[float] = []
    values: list[float] = []
    for when, value in line.items():
        if times and when - times[-1] > 1.5:
            times.append(when)
            values.append(math.nan)
        times.append(when)
        values.append(value)
    return times, values


def _color(name: str, number: int) -> str:
    color = COLORS.get(name, PALETTE[number % len(PALETTE)])
    return NAMED.get(color, color)


def _with_unit(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    return textwrap.shorten(f"{value:.3g}{UNITS[unit]}", 20)
