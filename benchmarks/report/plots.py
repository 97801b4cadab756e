"""Draws the plots as SVGs. Needs matplotlib, which only .venv-bench has.

A run that is void or failed is drawn as such, in red, where its bar would be; a rate at which the generator used up
its core is marked. Nothing is left out because it looks bad.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import tables
from benchmarks.report.plot_style import bars, colour, new_figure, standalone, to_svg
from benchmarks.report.results import SATURATED, SATURATION, Results, Run, Spread, end_to_end, select, spread
from benchmarks.report.tables import COLUMNS, of

# A bar this many times as long as the next one is cut off, and marked: otherwise the others would be mere lines.
_CUT_AT = 1.6


def throughput(found: Results) -> str | None:
    """Orders/s by contender: median, and from the lowest to the highest."""
    names = tables.by_rate(found)
    if not names:
        return None
    figure, axes = new_figure(
        len(names), "Orders/s, end to end", "256 connections; bar: median, line: lowest to highest"
    )
    bars(axes, [tables.title_of(found, it) for it in names], "orders/s accepted, stored and decided")
    most = _to(axes, [rate.high for it in names if (rate := _rate(found, it))])
    for place, name in enumerate(names):
        runs = of(found, SATURATION, contender=name, load=SATURATED)
        _bar(axes, place, spread(map(end_to_end, _counted(runs))), runs, most, ours=name.startswith("headrace"))
    return to_svg(figure)


def cpu(found: Results) -> str | None:
    """CPU time of an order by part."""
    parts = {
        name: tables.by_column(counted)
        for name in tables.by_rate(found)
        if (counted := select(found.runs, SATURATION, name, SATURATED))
    }
    if not parts:
        return None
    names = sorted(parts, key=lambda name: sum(parts[name].values()))
    title = "CPU time of one order, by part"
    figure, axes = new_figure(len(names), title, "256 connections; the generator left out; less is better")
    bars(axes, [tables.title_of(found, it) for it in names], "CPU µs for each order")
    most = _cut([sum(parts[name].values()) for name in names])
    axes.set_xlim(0, most * 1.14)
    for place, name in enumerate(names):
        left = 0.0
        for column in COLUMNS:
            width = max(0.0, min(parts[name][column], most - left))
            axes.barh(place, width, left=left, height=0.66, color=colour(column))
            left += parts[name][column]
        _label(axes, place, min(left, most), f"{left:,.0f}" + " ▸" * (left > most))
    handles = [_patch(column) for column in COLUMNS]
    axes.legend(handles=handles, ncols=2, loc="upper right", frameon=False, fontsize=9)
    return to_svg(figure)


def latency(found: Results) -> str | None:
    """p50 and p99 against the rate of arrivals, until it is too much."""
    runs = of(found, "knee")
    if not runs:
        return None
    subtitle = "open loop, from when a request was due; red: errors, or no result"
    figure, axes = new_figure(9, "Latency at a given rate", subtitle)
    rates = sorted({rate for run in runs if (rate := rate_of(run))})
    for name, shade in zip(tables.names_of(runs, "contender"), ("ours", "ink"), strict=False):
        _latency_of(axes, tables.title_of(found, name), [run for run in runs if run.contender == name], shade)
    axes.set_xscale("log")
    if not any(run.counts for run in runs):
        axes.set_ylim(1, 1_000)  # a logarithm of nothing is an error
    axes.set_yscale("log")
    axes.set_xticks(rates, [f"{rate:,}" for rate in rates])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    figure.legend(loc="upper right", ncols=2, frameon=False, fontsize=9)
    axes.set_xlim(rates[0] * 0.85, rates[-1] * 1.18)
    axes.set_xlabel("orders/s that arrive")
    axes.set_ylabel("ms until accepted")
    axes.grid(color=colour("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    return to_svg(figure)


def _latency_of(axes: Any, title: str, runs: Sequence[Run], shade: str) -> None:
    counted = [run for run in runs if run.counts and run.latency_ms.p99]
    rates = sorted({rate_of(run) for run in counted})
    for which, dashes in (("p99", "-"), ("p50", "--")):
        values = [
            tables.median(getattr(run.latency_ms, which) for run in counted if rate_of(run) == rate) for rate in rates
        ]
        shape = {"linewidth": 1.8, "marker": "o", "markersize": 4}
        axes.plot(rates, values, dashes, color=colour(shade), label=f"{title}, {which}", **shape)
    broken = [run for run in counted if run.errors]
    axes.plot(
        [rate_of(it) for it in broken], [it.latency_ms.p99 for it in broken], "o", color=colour("bad"), markersize=6
    )
    for rate in {rate_of(run) for run in runs} - set(rates):
        if rate:
            height = axes.get_xaxis_transform()
            axes.plot([rate], [0.97], "x", transform=height, color=colour("bad"), markersize=8, clip_on=False)


def rate_of(run: Run) -> int:
    """Of `open 1000/s`."""
    return int(run.load.removeprefix("open ").removesuffix("/s")) if run.load.startswith("open ") else 0


def ablations(found: Results) -> str | None:
    """Orders/s with one thing taken away, beside Headrace as it is."""
    return _variants(
        found,
        "ablations",
        "What each thing costs, or brings",
        "orders/s with one thing taken away; 256 connections; the line: Headrace as it is",
        base=tables.AS_IT_IS,
    )


def growth(found: Results) -> str | None:
    """Orders/s on tables that have rows already."""
    return _variants(found, "growth", "Orders/s on grown tables", "256 connections; the line: on empty tables")


def backlog(found: Results) -> str | None:
    """How fast what waits in the queue is stored and decided."""
    queued = tables.names_of(of(found, "backlog"), "load")
    subtitle = f"{', '.join(queued)}; stored by so many persist_workers, decided by one product_consumer"
    return _variants(found, "backlog", "Orders/s out of a backlog", subtitle, line=False)


def _variants(
    found: Results, experiment: str, title: str, subtitle: str, base: str | None = None, *, line: bool = True
) -> str | None:
    """A bar for each variant; a line where the first, or `base`, ends."""
    variants = tables.names_of(of(found, experiment), "variant")
    if not variants:
        return None
    figure, axes = new_figure(len(variants), title, subtitle)
    bars(axes, [_wrapped(it) for it in variants], "orders/s, end to end")
    rates = {it: spread(map(end_to_end, select(found.runs, experiment, variant=it))) for it in variants}
    most = _to(axes, [rate.high for rate in rates.values() if rate])
    first = base or variants[0]
    for place, variant in enumerate(variants):
        _bar(
            axes, place, rates[variant], of(found, experiment, variant=variant), most, ours=variant == first or not line
        )
    if line and (whole := rates[first]):
        axes.axvline(whole.median, color=colour("ours"), linewidth=1.1, linestyle=(0, (4, 3)))
    return to_svg(figure)


def _wrapped(text: str) -> str:
    """On two lines, where one would leave the figure."""
    return "\n".join(textwrap.wrap(text, 27))


# ── what they are made of


def _counted(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.counts]


def _rate(found: Results, name: str) -> Spread | None:
    return spread(map(end_to_end, select(found.runs, SATURATION, name, SATURATED)))


def _cut(lengths: Sequence[float]) -> float:
    """Where the axis ends: at the longest bar, or the longest but one when it would be dwarfed."""
    longest, *rest = sorted(lengths, reverse=True)
    return rest[0] * 1.15 if rest and longest > _CUT_AT * rest[0] else longest


def _to(axes: Any, rates: Sequence[float]) -> float:
    """Room for the longest bar and what is written behind it. Returns what the longest is."""
    most = max(rates, default=1.0) or 1.0
    axes.set_xlim(0, most * 1.45)
    return most


def _bar(axes: Any, place: int, rate: Spread | None, runs: Sequence[Run], most: float, *, ours: bool) -> None:
    """One bar with its spread and what is to be known of it, or, of runs that all failed, what they are."""
    remarks = tables.flaws(runs)
    if rate is None:
        axes.barh(place, most * 0.06, height=0.66, facecolor="none", hatch="////", edgecolor=colour("bad"), linewidth=1)
        _label(axes, place, most * 0.06, remarks, "bad")
        return
    axes.barh(place, rate.median, height=0.66, color=colour("ours" if ours else "other"))
    if rate.count > 1:
        axes.plot([rate.low, rate.high], [place, place], color=colour("ink"), linewidth=1.4, solid_capstyle="butt")
    _label(axes, place, rate.high, f"{rate.median:,.0f}")
    if remarks:
        beside = {"xytext": (14 + 6.2 * len(f"{rate.median:,.0f}"), -3.4), "textcoords": "offset points"}
        axes.annotate(remarks, (rate.high, place), color=colour("bad"), fontsize=8, **beside)


def _label(axes: Any, place: int, x: float, text: str, shade: str = "ink") -> None:
    ground = {"facecolor": colour("paper"), "edgecolor": "none", "pad": 0.6}
    where = {"xytext": (6, -3.4), "textcoords": "offset points"}
    axes.annotate(text, (x, place), fontsize=9.5, color=colour(shade), bbox=ground, **where)


def _patch(column: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour(column), label=column)


PLOTS: dict[str, Callable[[Results], str | None]] = {
    "throughput": throughput,
    "cpu": cpu,
    "latency": latency,
    "ablations": ablations,
    "growth": growth,
    "backlog": backlog,
}


def draw(found: Results) -> dict[str, str]:
    """Name → SVG, for a page that has plot_style.css(); without those that there is nothing for."""
    drawn = {name: plot(found) for name, plot in PLOTS.items()}
    return {name: svg for name, svg in drawn.items() if svg is not None}


# ── I/O below


def write(svgs: dict[str, str], directory: Path, prefix: str) -> list[Path]:
    """Files that stand by themselves. Returns them."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, svg in svgs.items():
        path = directory / f"{prefix}{name}.svg"
        path.write_text(standalone(svg))
        written.append(path)
    return written
