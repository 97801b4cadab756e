"""Reports a demo: figures for programs, a table and sentences for people."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proof.accounting import Account, Sent
from proof.bodies import problem_detail
from proof.events import EventAccount
from proof.load_result import LoadResult, is_accepted, is_refused, percentile, reason
from proof.orders import Order

EXAMPLES = 5
PROSE_COLUMNS = 80


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """One demo's data. Times are time.perf_counter()'s; plus `clock_offset_s` they are the database's Unix time."""

    planned: int
    lines: int
    """Of each order."""
    clients: int
    products: int
    scarce: int
    seed: int
    interrupted: bool
    load: LoadResult[Order]
    sent: Sent
    account: Account
    events: EventAccount
    drained_s: float
    """When all accepted orders were decided, or none was for too long."""
    clock_offset_s: float

    @property
    def is_good(self) -> bool:
        return (
            self.account.is_clean
            and self.events.is_clean
            and self.sent.accepted_count > 0
            and not self.load.without_acceptance_s
        )

    @property
    def decided_s(self) -> float:
        """time.perf_counter() of the last verdict, from the database's clock.

        The end of the drain, measured here, is the upper bound. If a clock was set meanwhile, the bound is the result.
        """
        last_s = self.account.verdicts.last_s
        if last_s is None or self.account.decided < len(self.sent.accepted):
            return self.drained_s
        decided_s = last_s - self.clock_offset_s
        return decided_s if self.load.started_s < decided_s < self.drained_s else self.drained_s


def figures(run: Run) -> dict[str, Any]:
    """The run in numbers, the most important first.

    orders_per_s is sustained, end to end: decided orders divided by the time from first request to last verdict.
    drain_s is the part of that time after the last answer. accept_ms covers accepted orders, from send to answer.
    verdict_ms covers acceptance to verdict, by the services' and the database's clocks. event_ms covers the verdict to
    the moment in which a reader has its event. Null: nothing to measure.
    """
    load, sent, account = run.load, run.sent, run.account
    accept_ms = load.accepted_ms()
    elapsed_s = run.decided_s - load.started_s if len(load) else 0.0
    return {
        "sent": len(load),
        "accepted": sent.accepted_count,
        "refused": sent.refused.total(),
        "unknown": sent.unknown.total(),
        "stored": account.stored,
        "decided": account.decided,
        "processed": account.processed,
        "failed": sum(account.failed.values()),
        "lost": account.lost_count,
        "duplicated": account.duplicated,
        "oversold": len(account.oversold),
        "half_baskets": len(account.half),
        "events_missing": run.events.missing,
        "events_duplicated": run.events.duplicated,
        "events_out_of_order": run.events.out_of_order,
        "orders_per_s": _rounded(account.decided / elapsed_s if elapsed_s > 0 else 0.0),
        "lines_per_s": _rounded(account.decided * run.lines / elapsed_s if elapsed_s > 0 else 0.0),
        "accept_ms_p50": _rounded(percentile(accept_ms, 0.50)),
        "accept_ms_p99": _rounded(percentile(accept_ms, 0.99)),
        "verdict_ms_p50": _rounded(account.verdicts.p50_ms),
        "verdict_ms_p99": _rounded(account.verdicts.p99_ms),
        "event_ms_p50": _rounded(run.events.p50_ms),
        "event_ms_p99": _rounded(run.events.p99_ms),
        "drain_s": round(max(0.0, run.decided_s - load.ended_s), 3) if account.decided else None,
        "elapsed_s": round(elapsed_s, 3),
        "refused_by_problem": dict(sorted(sent.refused.items())),
        "failed_by_reason": dict(account.failed),
        "unknown_by_problem": _unknown(load),
        "unknown_stored": account.unknown_stored,
        "load_cpu_us_per_request": _rounded(load.cpu_s / len(load) * 1e6 if len(load) else None),
        "clients": run.clients,
        "open_at_once": load.open_at_once,
        "products": run.products,
        "lines": len(load) * run.lines,
        "lines_per_order": run.lines,
        "seed": run.seed,
        "interrupted": run.interrupted,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _unknown(load: LoadResult[Order]) -> dict[str, int]:
    counts = Counter(
        reason(status, kept)
        for status, kept in zip(load.statuses, load.kept, strict=True)
        if not (is_accepted(status) or is_refused(status, kept))
    )
    return dict(sorted(counts.items()))


def print_report(run: Run, console: Console) -> None:
    """Print the verdict, the figures, and remarks that explain them."""
    colour = "green" if run.is_good else "red"
    width = min(PROSE_COLUMNS, console.width)
    for line in wrapped(verdict(run), width):
        console.print(f"[bold {colour}]{escape(line)}[/]", soft_wrap=True)
    console.print()
    _print_table(run, console)
    for remark in remarks(run):
        for line in wrapped(remark, width):
            console.print(escape(line), soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """Wrap at spaces only, so that ids and URLs stay whole. Later lines keep the first line's indentation."""
    indent = " " * (len(text) - len(text.lstrip()))
    made = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return made or [""]


def counted(count: int, noun: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def verdict(run: Run) -> str:
    """The whole result in one sentence."""
    account = run.account
    planned = counted(run.planned, "order") + (f" of {run.lines} lines" if run.lines > 1 else "")
    subject = f"Stopped after {len(run.load):,} of {planned}" if len(run.load) < run.planned else planned
    if not run.sent.accepted_count:
        return f"{subject}: none was accepted."
    lost = f"{account.lost_count:,} LOST" if account.lost_count else "nothing lost"
    duplicated = f"{account.duplicated:,} DUPLICATED" if account.duplicated else "nothing duplicated"
    oversold = f"{counted(len(account.oversold), 'product')} OVERSOLD" if account.oversold else "nothing oversold"
    return f"{subject}: {lost}, {duplicated}, {oversold}{_half_verdict(run)}{_events_verdict(run.events)}."


def _half_verdict(run: Run) -> str:
    """Whether orders of several lines are whole; "" for orders of one line."""
    if half := len(run.account.half):
        return f", {counted(half, 'order')} STORED IN PART"
    return ", nothing in part" if run.lines > 1 else ""


def _events_verdict(events: EventAccount) -> str:
    """What is wrong with the events; "" if nothing is."""
    counts = {"MISSING": events.missing, "REPEATED": events.duplicated, "OUT OF ORDER": events.out_of_order}
    wrong = [f"{counted(count, 'event')} {what}" for what, count in counts.items() if count]
    return ", " + ", ".join(wrong) if wrong else ""


def _print_table(run: Run, console: Console) -> None:
    if console.is_terminal:
        console.print(_table(run))
        return
    with console.capture() as captured:  # rich pads each line with blanks, which a file would keep
        console.print(_table(run))
    for line in captured.get().splitlines():
        console.print(escape(line.rstrip()), soft_wrap=True)


def _table(run: Run) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, number, remark in _rows(run, figures(run)):
        table.add_row(name, number, escape(remark))
    return table


def _rows(run: Run, of: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield "sent", f"{of['sent']:,}", f"{_connections(run)}, {counted(run.products, 'product')}, seed {run.seed}"
    if run.lines > 1:
        yield "  lines", f"{of['lines']:,}", f"{run.lines} in each order, of different products"
    yield "accepted", f"{of['accepted']:,}", _times("answered", of["accept_ms_p50"], of["accept_ms_p99"])
    yield "refused", f"{of['refused']:,}", _parts(of["refused_by_problem"])
    yield "unknown", f"{of['unknown']:,}", _parts(of["unknown_by_problem"])
    yield "stored", f"{of['stored']:,}", ""
    yield "decided", f"{of['decided']:,}", _times("decided", of["verdict_ms_p50"], of["verdict_ms_p99"])
    yield "  processed", f"{of['processed']:,}", ""
    yield "  failed", f"{of['failed']:,}", _parts(of["failed_by_reason"])
    yield "events", _events(run), _times("read", of["event_ms_p50"], of["event_ms_p99"])
    yield "orders/s", f"{of['orders_per_s']:,.0f}", f"first request to last verdict: {of['elapsed_s']:.2f} s"
    if run.lines > 1:
        yield "lines/s", f"{of['lines_per_s']:,.0f}", ""
    yield "drain", "-" if of["drain_s"] is None else f"{of['drain_s']:.2f} s", "last answer to last verdict"


def _events(run: Run) -> str:
    """How many of the orders' events were read."""
    return f"{len(run.sent.accepted) - len(run.account.lost) - run.events.missing:,}"


def _connections(run: Run) -> str:
    """The number of connections, and how many were open at once if that is less."""
    asked = counted(run.clients, "connection")
    open_at_once = run.load.open_at_once
    return asked if open_at_once == run.clients else f"{open_at_once:,} of {asked} open at once"


def _times(what: str, p50: float | None, p99: float | None) -> str:
    return "" if p50 is None or p99 is None else f"{what} in {p50:.1f} ms (p50), {p99:.1f} ms (p99)"


STATUS_WORDS = {
    "0": "no answer",
    "429": "too many requests",
    "503": "unavailable",
    "broker-unavailable": "broker unavailable",
    "out-of-stock": "out of stock",
    "outcome-unknown": "outcome unknown",
    "store-unavailable": "database unavailable",
    "unknown-product": "unknown product",
}


def _parts(counts: dict[str, int]) -> str:
    return ", ".join(f"{STATUS_WORDS.get(name, name)} {n:,}" for name, n in counts.items())


def remarks(run: Run) -> list[str]:
    """Sentences that explain the figures, after an empty line; [] if none is needed."""
    lines = [*_stop_remark(run), *_stock_remark(run), *_unknown_remark(run), *_fault_remarks(run)]
    return ["", *lines] if lines else []


def _stop_remark(run: Run) -> Iterator[str]:
    if run.load.without_acceptance_s:
        said = problem_detail(run.load.last_refusal) or "nothing"
        yield f"The demo stopped sending: no order was accepted for {run.load.without_acceptance_s:.0f} s."
        yield f"  the last refusal said: {said}"


def _stock_remark(run: Run) -> Iterator[str]:
    share = f"{run.scarce} of the {run.products} products" if run.products > 1 else "The product"
    yield f"{share} had stock for only 90 % of the quantity ordered, so some orders had to be refused or fail."


def _unknown_remark(run: Run) -> Iterator[str]:
    if unknown := run.sent.unknown.total():
        yield (
            f"{counted(unknown, 'request')} got no answer that settles anything (5xx, time-out, reset); "
            f"{run.account.unknown_stored:,} of them turned out to be stored. The demo sends no Idempotency-Key and "
            "nothing twice; with a key, a client can safely send such a request again."
        )
    for status, body in run.load.samples.items():
        if status >= 500:
            yield f"  the first {status} said: {problem_detail(body)}"
    if run.load.gave_up:
        yield f"A lost connection could not be reopened: {run.load.gave_up}"


def _fault_remarks(run: Run) -> Iterator[str]:
    account = run.account
    for id_, why in islice(account.lost.items(), EXAMPLES):
        yield f"  lost: {id_}: {why}"
    for id_ in account.half[:EXAMPLES]:
        yield f"  stored in part: {id_}"
    if account.unreadable:
        yield f"  lost: {account.unreadable:,} accepted without a readable id"
    for stock in account.oversold[:EXAMPLES]:
        yield (
            f"  oversold: product {stock.product_id}: qty {stock.qty}, stock adjustments {stock.adjusted}, "
            f"processed {stock.taken} by the ledger and {stock.ordered} by the orders"
        )
