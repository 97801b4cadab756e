"""Sentences about the results: the verdict, the machine, and the caveats. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.report import goals, results, tables
from benchmarks.report.number_format import number, percent
from benchmarks.report.results import FEWER, MOST_TO_OTHERS, SATURATED, SATURATION, Results, Run, select
from benchmarks.report.tables import Table

# Above this, the machine had something else to do, and figures of time say little.
DISTURBED_SHARE = 0.10

LIMITATIONS = (
    (
        "One machine, and everything on it: PostgreSQL, RabbitMQ, Redis, the contender and the generator share its"
        " cores. On machines of their own all contenders would be faster, and the ratios others."
    ),
    (
        "A cloud machine's cores are shared with strangers. So contenders take turns, ratios are those of neighbours in"
        " time, and what the host took away (steal) and what other processes used stand beside the figures. CPU time"
        " for each order is moved least by all that; orders/s most."
    ),
    (
        "One broker node. A quorum queue of three writes to three disks and waits for two: each confirm takes a round"
        " trip longer, which group commit shares among all orders that wait, and one message for each order does not."
    ),
    "All connections are on the loopback and without TLS: no network, no loss, no distance.",
    "Loads last seconds, or a minute: no vacuum of hours, no disk that fills, no week of uptime.",
    (
        "fsync is as fast as the disk says it is. On a disk with slower fsync everything durable is slower, and what"
        " shares one fsync among many orders gains."
    ),
    (
        "The closed loop's latency is what clients see who wait for each other: it grows with their number, and says"
        " nothing about one client who comes by. The open loop's says that, for arrivals that are independent of each"
        " other: where clients come in bursts, it is another."
    ),
    (
        "The contenders were written here. Each follows its library's documentation and was tuned on this machine, with"
        " the better setting kept; who knows the library better may do better."
    ),
)


def verdict(found: Results) -> str:
    """One or two sentences: how fast, compared with what, at what price; before them, what voids the result."""
    void = len(results.void_runs(found))
    warning = f"{_runs(void)} lost orders or told untruths: this proves nothing. " if void else ""
    return warning + (_compared(found) or "Headrace was not compared with anything in this run.")


def _compared(found: Results) -> str | None:
    said = results.verdict(found)
    if said.headrace_orders_per_s is None:
        return None
    text = f"Headrace sustains {number(said.headrace_orders_per_s)} orders/s end to end with 256 connections"
    against = []
    if said.ratio_sync_tuned:
        against.append(f"{said.ratio_sync_tuned:.1f} times as many as the tuned synchronous design")
    if said.ratio_best_peer and said.best_peer:
        peer = tables.title_of(found, said.best_peer)
        against.append(f"{said.ratio_best_peer:.1f} times as many as the best of the common stacks tried ({peer})")
    if said.ratio_sync_statement:
        against.append(
            f"{said.ratio_sync_statement:.1f} times as many as one SQL statement for each order, and no broker"
            + _with_fewer(found)
        )
    text += f": {'; '.join(against)}" if against else ""
    cost = sum(said.cpu_us_per_order.values())
    return f"{text}; each order costs {number(cost)} µs of CPU, all parts together."


def _with_fewer(found: Results) -> str:
    """The same ratio with fewer connections, where a batch saves less; empty if it was not measured."""
    these, those = (select(found.runs, SATURATION, it, FEWER) for it in ("headrace", "sync-statement"))
    ratio = results.median_ratio(these, those, results.end_to_end)
    return f" ({ratio:.1f} times with 64 connections)" if ratio else ""


def correctness(found: Results) -> str:
    """Sentences about correctness, about whose requests failed, and about the runs that do not count."""
    orders = sum(run.accepted for run in found.runs if run.void is None)
    void, failed = len(results.void_runs(found)), sum(run.failed is not None for run in found.runs)
    bound = sum(run.generator_bound for run in found.runs)
    looked_for = (
        f"{_runs(len(found.runs))}, {number(orders)} accepted orders, each looked for in PostgreSQL by its id:"
        f" {void} void, {failed} failed, {bound} generator-bound."
    )
    open_loops = _void_open_loops([run for run in found.runs if run.disturbed is not None])
    return " ".join(filter(None, (looked_for, _errors(found), open_loops)))


def _errors(found: Results) -> str:
    """How many requests failed, of Headrace and of the others, and how many of those are in a figure."""
    ours = [run for run in found.runs if run.contender.startswith("headrace")]
    theirs = [run for run in found.runs if not run.contender.startswith("headrace")]
    of_whom = (("Headrace", ours), ("the designs compared with it", theirs))
    told = [
        f"{_sum(runs)} of {whom} ({_sum(it for it in runs if it.counts)} in runs that count)" for whom, runs in of_whom
    ]
    return f"{_sum(found.runs)} requests were refused, broken or not sent: {', '.join(told)}."


def _sum(runs: Iterable[Run]) -> str:
    return f"{sum(run.errors for run in runs):,}"


def _void_open_loops(runs: Sequence[Run]) -> str:
    """Why they are void: by the first reason of Run.disturbed that holds. Empty if there are none."""
    busy = sum(run.steal_share + run.others_share > MOST_TO_OTHERS for run in runs)
    silent = sum(run.late_ms.p99 is None and run.steal_share + run.others_share <= MOST_TO_OTHERS for run in runs)
    why = {
        f"in {busy} more than {percent(MOST_TO_OTHERS)} of the machine went to others": busy,
        f"in {silent} the generator does not say how late it was": silent,
        f"in {len(runs) - busy - silent} the generator was late": len(runs) - busy - silent,
    }
    told = [text for text, count in why.items() if count]
    return f"{_runs(len(runs))} of an open loop void: {'; '.join(told)}." if runs else ""


def goals_met(judged: Sequence[goals.Judged]) -> str:
    met, missed, unknown = (sum(it.met is answer for it in judged) for answer in (True, False, None))
    return f"{met} of {len(judged)} goals met, {missed} missed, {unknown} not measured in this run."


def environment(found: Results) -> Table:
    here = found.machine
    fsync, count = here.fsync_ms, [run for run in found.runs if run.counts]
    rows = [
        ("processor", f"{here.cpu}, {here.cores} cores"),
        ("memory", f"{here.memory_mb / 1000:.1f} GB"),
        ("system", f"{here.system}, Linux {here.kernel}"),
        ("one fsync of 8 KiB", f"p50 {number(fsync.p50, 2)} ms, p99 {number(fsync.p99, 2)} ms"),
        ("taken by the host (steal)", _median_and_most([run.steal_share for run in count])),
        ("used by other processes", _median_and_most([run.others_share for run in count])),
        ("commit", found.revision or "unknown"),
        ("measured", f"{found.started_at}, in {found.seconds / 60:.0f} min" + ", quick" * found.quick),
        ("versions", ", ".join(f"{name} {version}" for name, version in here.versions.items())),
    ]
    return Table(("", ""), rows, words=(0, 1))


def _median_and_most(shares: list[float]) -> str:
    found = results.spread(shares)
    return "unknown" if found is None else f"median {percent(found.median)}, most {percent(found.high)} of all cores"


def beware(found: Results) -> list[str]:
    """Caveats of these results, before the limitations that all results share."""
    counted = [run for run in found.runs if run.counts]
    bound = sum(run.generator_bound for run in counted)
    disturbed = sum(run.others_share + run.steal_share > DISTURBED_SHARE for run in counted)
    said = {
        "The run was interrupted: what is here is what was measured until then.": found.interrupted,
        "A quick run: short loads, two pairs. Good for a look, not for a conclusion.": found.quick,
        f"Only {found.only} was asked for.": bool(found.only),
        f"{_runs(bound)} GENERATOR-BOUND: the generator used up its core, and the contender may be faster.": bound,
        f"During {_runs(disturbed)} more than {percent(DISTURBED_SHARE)} of the machine went to others.": disturbed,
        "The tree had changes that no commit holds.": found.revision.endswith("+"),
    }
    return [text for text, applies in said.items() if applies]


def not_counted(found: Results) -> Table | None:
    """A table of failed runs; None if there are none."""
    rows = [
        (
            _where(run.experiment, run.pair, run.variant),
            tables.title_of(found, run.contender),
            run.load,
            what,
            str(reason),
        )
        for run in found.runs
        for what, reason in (("VOID", run.void), ("VOID", run.disturbed), ("FAILED", run.failed))
        if reason is not None
    ]
    return Table(("experiment", "contender", "load", "", "reason"), rows, words=(0, 1, 2, 3, 4)) if rows else None


def skipped(found: Results) -> Table | None:
    rows = [(it.experiment, it.what, it.reason) for it in found.skipped]
    return Table(("experiment", "what", "why"), rows, words=(0, 1, 2)) if rows else None


def guarantees(found: Results) -> Table | None:
    """A table of the contenders and their guarantees."""
    compared = {run.contender for run in found.runs if run.experiment == SATURATION and run.load == SATURATED}
    rows = [(it.title, it.what, it.guarantee) for it in found.contenders if it.name in compared]
    return Table(("", "how it works", "what its 2xx guarantees"), rows, words=(0, 1, 2)) if rows else None


def _where(experiment: str, pair: int, variant: str) -> str:
    return f"{experiment} #{pair}" + f", {variant}" * bool(variant)


def _runs(count: int) -> str:
    return f"{count:,} run" + "s" * (count != 1)
