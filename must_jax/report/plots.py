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
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

INK = "#123456"  # stands for the page's text colour until the SVG is written
PALETTE = ("#e4572e", "#2e86ab", "#3fa34d", "#8e6bbf", "#d99a2b", "#c2528b", "#3aa6a0")
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


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str) -> str:
    """Line plot of name -> (x, y), on a logarithmic y axis if all values allow it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.subplots()
        for index, (name, (x, y)) in enumerate(series.items()):
            # The first series is the one that matters most: the total.
            axes.plot(x, y, label=name, color=PALETTE[index % len(PALETTE)], linewidth=1.8 if index == 0 else 1.0)
        if all(value > 0 for _, values in series.values() for value in values):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("step")
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        if len(series) > 1:
            axes.legend(ncols=2, handlelength=1.2, columnspacing=1.0)
        return _svg(figure, title)


def bars(values: Mapping[str, tuple[float, float]], highlight: Sequence[str], muted: Sequence[str], title: str) -> str:
    """Horizontal bars of name -> (mean, standard deviation), with the values written beside them."""
    names = list(values)
    means = [values[name][0] for name in names]
    spreads = [values[name][1] for name in names]
    colors = [PALETTE[0] if name in highlight else "#8a94a0" if name in muted else PALETTE[1] for name in names]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 0.28 * len(names) + 0.45), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(names)), means, color=colors, height=0.68, alpha=0.9)
        axes.errorbar(means, range(len(names)), xerr=spreads, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        right = max((mean + spread for mean, spread in values.values()), default=1.0) or 1.0
        for row, (mean, spread) in enumerate(values.values()):
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
