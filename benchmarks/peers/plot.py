"""Draws the measurements: `python -m benchmarks.peers.plot DATA.json PLOT.png`.

Runs in the environment that has matplotlib, `.bench/peers/plot`. Rows are models, columns are pairs
of precision and sampling. Bars are medians, the lines on them reach from minimum to maximum, and
the dashes are the bound of `benchmarks.peers.roofline`.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.peers.records import Data
from benchmarks.peers.summary import OFFLINE_PEERS, OURS, Summary

mpl.use("Agg")

from matplotlib import pyplot

COLOURS = {OURS: "#1b6ca8", "ctranslate2": "#e08e45", "openvino": "#7a9e7e", "llama-cpp": "#9b6a9c"}
COLUMNS = list(itertools.product(("float32", "8-bit"), ("greedy", "top-p")))
BAR = 0.2


def draw(data: Data, target: Path) -> None:
    """Writes the plot."""
    models = list(data.weights)
    size = (4 * len(COLUMNS), 3.2 * len(models))
    figure, axes = pyplot.subplots(len(models), len(COLUMNS), figsize=size, squeeze=False)
    for row, model in enumerate(models):
        for column, (precision, sampling) in enumerate(COLUMNS):
            panel = axes[row][column]
            draw_panel(panel, Summary(data, model), precision, sampling)
            panel.set_title(f"{model}, {precision}, {sampling}", fontsize=10)
        axes[row][0].set_ylabel("tokens per second")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(target, dpi=110)


def draw_panel(panel: Any, summary: Summary, precision: str, sampling: str) -> None:
    """Draws groups of bars, one for each number of concurrent requests."""
    systems = (OURS, *OFFLINE_PEERS)
    batches = summary.batches(systems)
    for number, system in enumerate(systems):
        speeds = [summary.speed(precision, system, sampling, batch) for batch in batches]
        there = [(place, speed) for place, speed in enumerate(speeds) if speed is not None]
        medians = [speed.median for _, speed in there]
        reach = [
            [speed.median - speed.minimum for _, speed in there],
            [speed.maximum - speed.median for _, speed in there],
        ]
        places = [place + (number - 1.5) * BAR for place, _ in there]
        panel.bar(places, medians, BAR, yerr=reach, label=system, color=COLOURS[system])
    bounds = [summary.bound(precision, batch) for batch in batches]
    lefts, rights = ([place + side * 2 * BAR for place in range(len(batches))] for side in (-1, 1))
    panel.hlines(bounds, lefts, rights, colors="black", linestyles="dashed", label="bound")
    panel.set_xticks(range(len(batches)), [f"{batch} at once" for batch in batches])
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("plot", type=Path)
    arguments = parser.parse_args()
    draw(Data.load(arguments.data), arguments.plot)


if __name__ == "__main__":
    main()
