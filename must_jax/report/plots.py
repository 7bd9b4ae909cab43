"""Small figures as inline SVG that takes its text colour from the page, so that light and dark both read well."""

from __future__ import annotations

import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

INK = "#123456"  # stands for the page's text colour until the SVG is written
PALETTE = ("#e4572e", "#2e86ab", "#3fa34d", "#8e6bbf", "#d99a2b", "#c2528b", "#3aa6a0")
DASHES = ("-", "--", ":")  # for more series than colours
MOST_INSIDE = 4  # entries of a legend that finds a place beside the lines
MOST_NUMBERED = 12  # classes of a matrix whose cells have their figures
STYLE: Any = {
    "svg.fonttype": "none",  # real text: selectable and in the page's font
    "text.parse_math": False,  # a name may contain a dollar sign
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    title: str,
    x: str = "step",
    y: str = "",
    *,
    linear: bool = False,
) -> str:
    """Line plot of name -> (x values, y values), on a logarithmic y axis if all values allow it and `linear` does."""
    below = -(-len(series) // 2) if len(series) > MOST_INSIDE else 0  # lines of a legend below the axes
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.6 + 0.19 * below), layout="constrained")
        axes = figure.subplots()
        for index, (name, (at, values)) in enumerate(series.items()):
            turn, colour = divmod(index, len(PALETTE))
            known = [math.nan if value is None else value for value in values]
            (line,) = axes.plot(at, known, DASHES[turn % len(DASHES)], label=shown(name), color=PALETTE[colour])
            line.set_linewidth(1.8 if index == 0 and not linear else 1.0)  # of losses, the first one is the total
        values_of = (value for _, values in series.values() for value in values)
        if not linear and all(value is not None and value > 0 for value in values_of):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        form: dict[str, Any] = {"ncols": 2, "handlelength": 1.2, "columnspacing": 1.0}
        if below:
            figure.legend(loc="outside lower left", **form)
        elif len(series) > 1:
            axes.legend(**form)
        return _svg(figure, title)


def confusion(shares: np.ndarray, truth: Sequence[str], predicted: Sequence[str], title: str) -> str:
    """A matrix f64[t, p] of shares of each true class, 0..1, with class names, and percentages if there is room."""
    side = min(11.0, max(3.0, 0.32 * len(truth) + 1.0))
    pitch = 72 * (side - 1.0) / max(len(truth), 1)  # points per row
    with matplotlib.rc_context({**STYLE, "font.size": min(9.0, 0.9 * pitch), "axes.linewidth": 0}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        cells = np.zeros((*shares.shape, 4))
        cells[..., :3], cells[..., 3] = to_rgb(PALETTE[1]), np.sqrt(shares)  # small ones show
        axes.imshow(cells, interpolation="none", aspect="equal")
        if len(truth) <= MOST_NUMBERED:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.005:
                    colour = "#ffffff" if share > 0.5 else INK
                    axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(predicted)), [shown(name) for name in predicted], rotation=90)
        axes.set_yticks(range(len(truth)), [shown(name) for name in truth])
        axes.tick_params(length=0, pad=2)
        axes.set_xlabel("predicted", fontsize=9)
        axes.set_ylabel("true", fontsize=9)
        return _svg(figure, title)


def shares(rows: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Horizontal bars of name -> {part: share in percent}, the parts side by side."""
    parts = list(dict.fromkeys(part for of_row in rows.values() for part in of_row))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.3 * len(rows) + 0.9), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(len(rows))
        for index, part in enumerate(parts):
            widths = np.array([of_row.get(part, 0.0) for of_row in rows.values()])
            colour = PALETTE[index % len(PALETTE)]
            hatch = "///" if index >= len(PALETTE) else None
            axes.barh(range(len(rows)), widths, left=left, label=shown(part), color=colour, height=0.66, hatch=hatch)
            left += widths
        axes.set_yticks(range(len(rows)), [shown(name, 40) for name in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.invert_yaxis()
        figure.legend(loc="outside lower left", ncols=5, handlelength=1.0)
        return _svg(figure, title)


def shown(name: str, most: int = 24) -> str:
    """A name as it is written: not too long, and not with the "_" at the beginning for which matplotlib hides it."""
    name = f" {name}" if name.startswith("_") else name
    return name if len(name) <= most else f"{name[: most - 1]}…"


def bars(
    values: Mapping[str, tuple[float, float | None]], highlight: Sequence[str], muted: Sequence[str], title: str
) -> str:
    """Horizontal bars of name -> (mean, standard deviation), with the means beside them; None = of a single value."""
    names = list(values)
    means = [values[name][0] for name in names]
    spreads = [values[name][1] or 0.0 for name in names]
    colors = [PALETTE[0] if name in highlight else "#8a94a0" if name in muted else PALETTE[1] for name in names]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 0.28 * len(names) + 0.45), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(names)), means, color=colors, height=0.68, alpha=0.9)
        if several := [row for row, name in enumerate(names) if values[name][1] is not None]:
            ends = [means[row] for row in several], several, None, [spreads[row] for row in several]
            axes.errorbar(*ends, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        right = max((mean + spread for mean, spread in zip(means, spreads, strict=True)), default=1.0) or 1.0
        for row, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
            axes.text(mean + spread + 0.02 * right, row, f"{mean:.1f}", va="center")
        axes.set_xlim(min(0.0, *means), 1.14 * right)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.invert_yaxis()
        return _svg(figure, title)


def histogram(edges: Sequence[float], counts: Sequence[int], title: str, logarithmic: bool = False) -> str:
    """Bars between neighbouring edges; `logarithmic` applies to the values, which may then have either sign."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 1.9), layout="constrained")
        axes = figure.subplots()
        widths = [high - low for low, high in itertools.pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=PALETTE[1], edgecolor="none", alpha=0.9)
        if logarithmic and edges[0] > 0:
            axes.set_xscale("log")
            decades = math.log10(edges[-1] / edges[0])
            subs = range(1, 10) if decades < 1 else (1, 2, 5) if decades <= 3 else (1,)
            axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
            axes.xaxis.set_minor_locator(NullLocator())
        elif logarithmic:
            axes.set_xscale("symlog", linthresh=1e-2)
            locator = SymmetricalLogLocator(base=10, linthresh=1e-2)
            locator.set_params(numticks=8)
            axes.xaxis.set_major_locator(locator)
        else:
            axes.xaxis.set_major_locator(
                MaxNLocator("auto", integer=widths[0] == 1, steps=[1, 2, 5, 10], min_n_ticks=1)
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlim(edges[0], edges[-1])
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        axes.set_axisbelow(True)
        return _svg(figure, title)


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    # The salt keeps the ids of several figures in one page distinct, and the file the same on every run.
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', svg).group()  # type: ignore[union-attr]
    svg = re.sub(r"<svg [^>]*>", lambda _: f'<svg role="img" aria-label="{html.escape(title)}" {view}>', svg, count=1)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    return svg.replace(INK, "currentColor")
