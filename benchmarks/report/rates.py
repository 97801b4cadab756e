"""Latency when orders arrive at a rate: a sentence, and tables of the open loops. Pure.

Every figure is the median of the runs that count. One that was disturbed does not: see Run.disturbed.
"""

from __future__ import annotations

from benchmarks.report import goals
from benchmarks.report.number_format import NOTHING, ms, number, percent
from benchmarks.report.results import GENERATORS, KNEE, OPEN_LOOP, Results, Run, select, spread
from benchmarks.report.tables import Table, median, names_of, of, remarks, title_of


def sentence(found: Results) -> str | None:
    """A sentence about latency at 1,000/s. None if no such run counts."""
    runs = select(found.runs, OPEN_LOOP, "headrace", goals.AT_1000)
    p50, p99, p999 = (median(getattr(it.latency_ms, which) for it in runs) for which in ("p50", "p99", "p999"))
    if p50 is None:
        return None
    text = (
        f"**At 1,000 orders/s that arrive at random, half are answered within {ms(p50)} ms, 99 % within {ms(p99)} ms,"
        f" and 99.9 % within {ms(p999)} ms**"
    )
    fast = select(found.runs, KNEE, "headrace", "open 4000/s")
    at_4000 = median(run.latency_ms.p99 for run in fast)
    more = f"; at 4,000/s, 99 % within {ms(at_4000)} ms" if at_4000 is not None else ""
    return f"{text}{more}. Median of {_runs(len(runs))}; latency counts from the moment a request was due."


def open_loop(found: Results) -> Table | None:
    """Rates of random arrivals, until they are too much. Medians of the runs that count."""
    kinds = list(dict.fromkeys((it.experiment, it.contender, it.load) for it in _open_loops(found)))
    head = (
        *("", "load", "p50 ms", "p99 ms", "lowest to highest", "p99.9 ms", "decided p99 ms"),
        *("errors", "machine busy", "runs"),
    )
    rows = [_at_rate(found, *kind) for kind in kinds]
    return Table(head, rows, words=(0, 1, 9), below=_when(found)) if rows else None


def _runs(count: int) -> str:
    return f"{count} run" + "s" * (count != 1)


def _open_loops(found: Results) -> list[Run]:
    return [*of(found, OPEN_LOOP), *of(found, KNEE)]


def _at_rate(found: Results, experiment: str, contender: str, load: str) -> tuple[str, ...]:
    runs = of(found, experiment, contender=contender, load=load)
    counted = [run for run in runs if run.counts]
    p50, p99, p999 = (median(getattr(run.latency_ms, it) for run in counted) for it in ("p50", "p99", "p999"))
    worst = spread(run.latency_ms.p99 for run in counted if run.latency_ms.p99 is not None)
    range_ms = f"{ms(worst.low)} to {ms(worst.high)}" if worst else NOTHING
    errors = number(sum(run.errors for run in counted)) if counted else NOTHING
    decided, busy = median(run.decided_ms.p99 for run in counted), percent(median(run.busy_share for run in counted))
    figures = ms(p50), ms(p99), range_ms, ms(p999), ms(decided), errors, busy
    seconds = median(run.seconds for run in runs if run.seconds)
    told = remarks(runs).split(" ", 1)
    of_so_long = f"{told[0]} of {number(seconds)} s" if seconds else told[0]
    return title_of(found, contender), load, *figures, " ".join([of_so_long, *told[1:]])


def _when(found: Results) -> str:
    """Of what commit these are, and how quiet it was: they may come from another file than the rest of the page."""
    counted = [run for run in _open_loops(found) if run.counts]
    if not counted:
        return ""
    others = percent(max(run.steal_share + run.others_share for run in counted))
    late = spread(run.late_ms.p99 for run in counted if run.late_ms.p99 is not None)
    lateness = f" The generator's own lateness, p99: {ms(late.high)} ms at the most." if late else ""
    return (
        f"Measured {found.started_at[:10]} at commit {found.revision or 'unknown'}. In a run that counts, {others} of"
        f" the machine at the most went to others.{lateness}"
    )


def generators(found: Results) -> Table | None:
    """The open-loop generators on an endpoint that does nothing."""
    rows = []
    for variant in names_of(of(found, GENERATORS), "variant"):
        counted, runs = select(found.runs, GENERATORS, variant=variant), of(found, GENERATORS, variant=variant)
        latency = (ms(median(getattr(run.latency_ms, it) for run in counted)) for it in ("p50", "p99", "p999"))
        late = ms(median(run.late_ms.p99 for run in counted))
        cost = number(median(run.cpu_us_per_order.get("generator") for run in counted))
        rows.append((variant, runs[0].load, *latency, late, cost, remarks(runs)))
    head = ("generator", "load", "p50 ms", "p99 ms", "p99.9 ms", "late p99 ms", "CPU µs a request", "runs")
    return Table(head, rows, words=(0, 1, 7)) if rows else None
