"""The chart: for each work, how many times the floor each contestant takes, on a logarithmic scale."""

from math import ceil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from .report import Results
from .works import Load

_COLUMNS = 2
_OURS = "#1a5fb4"
_OTHERS = "#9a9996"


def draw(results: Results, path: Path) -> None:
    """Write the chart to `path`; its suffix, such as .svg, says as what."""
    rows = ceil(len(results.loads) / _COLUMNS)
    canvas = Canvas(figsize=(12, 2.6 * rows), layout="constrained")
    axes = canvas.subplots(rows, _COLUMNS, squeeze=False)
    places = [axis for row in axes for axis in row]
    for axis, load in zip(places, results.loads, strict=False):
        _draw_work(axis, results, load)
    for axis in places[len(results.loads) :]:
        axis.set_visible(False)
    canvas.suptitle("Time as a multiple of bare redis-py (less is better; bars: quartiles)")
    canvas.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_work(axis: Axes, results: Results, load: Load) -> None:
    figures = [
        (entry.name, figure)
        for entry in reversed(results.entries)
        if entry.name != entry.floor and (figure := results.figure(load.work, entry.name))
    ]
    names = [name for name, _ in figures]
    medians = [figure.median for _, figure in figures]
    spread = [
        [figure.median - figure.low for _, figure in figures],
        [figure.high - figure.median for _, figure in figures],
    ]
    colours = [_OURS if name.startswith("phr-refresh") else _OTHERS for name in names]
    axis.barh(names, medians, xerr=spread, color=colours, error_kw={"elinewidth": 1})
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.axvline(1.0, color="black", linewidth=0.8)
    right = max([*(figure.high for _, figure in figures), 2.0]) * 2.5
    axis.set_xlim(min([*medians, 1.0]) / 1.5, right)
    for place, (_, figure) in enumerate(figures):
        axis.text(figure.high * 1.08, place, f"{figure.median:.3g}", va="center", fontsize=8)
    axis.set_title(load.work.value.replace("_", " "), fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
