"""The goals on two cores, generator included, and whether the results meet them. Pure.

Ratios are medians over neighbours of one run. A goal that the results say nothing about is neither met nor missed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.report import results
from benchmarks.report.results import OPEN_LOOP, SATURATED, SATURATION, Results, Run, end_to_end, select, spread

AT_1000 = "open 1000/s"
MILLION = "1,000,000 queued"
ONE_WORKER = "1 persist_worker"
EMPTY, GROWN = "0 rows stored", "5,000,000 rows stored"
HOT, SPREAD = "1 product", "10,000 products"
OURS = ("ingest_api", "persist_worker", "product_consumer")
# Half of the soak is looked at, five minutes: what grows by 10 MB an hour has then grown by less than 1 MB, which is
# what the allocator moves by itself. So this is as near to 0 as can be told.
LEAST_SLOPE_MB_PER_H = 10.0
LEAST_SOAK_S = 300.0


@dataclass(frozen=True)
class Goal:
    """`value` gives what was measured; `show` puts it, and the bound, into words with their unit."""

    words: str
    bound: float
    at_least: bool
    show: Callable[[float], str]
    value: Callable[[Results], float | None]

    @property
    def bound_words(self) -> str:
        sign = "≥ " if self.at_least else "≤ "
        return "0" if self.bound == 0 else sign + re.sub(r"\.0+(?!\d)|(?<=\.\d)0+(?!\d)", "", self.show(self.bound))

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Judged:
    goal: Goal
    value: float | None
    """None: not measured."""

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.goal.is_met(self.value)

    @property
    def value_words(self) -> str:
        return "not measured" if self.value is None else self.goal.show(self.value)


def judge(found: Sequence[Results]) -> list[Judged]:
    """Judge each goal by the first result that measured it."""
    return [Judged(goal, next((it for it in map(goal.value, found) if it is not None), None)) for goal in GOALS]


# ── in what units


def _times(value: float) -> str:
    return f"{value:.1f} ×"


def _percent(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _unit(unit: str, digits: int = 0) -> Callable[[float], str]:
    return lambda value: f"{round(value, digits) + 0.0:,.{digits}f} {unit}"  # no minus before a zero


# ── what was measured


def _sustained(found: Results) -> list[Run]:
    return select(found.runs, SATURATION, "headrace", SATURATED)


def _at_1000(found: Results) -> list[Run]:
    return select(found.runs, OPEN_LOOP, "headrace", AT_1000)


def _highest(values: Iterable[float | None]) -> float | None:
    return max((it for it in values if it is not None), default=None)


def _median(values: Iterable[float | None]) -> float | None:
    found = spread(it for it in values if it is not None)
    return found.median if found else None


def _drained(found: Results) -> float | None:
    return _highest(run.drain_s for run in _sustained(found))


def _cpu(part: str) -> Callable[[Results], float | None]:
    return lambda found: results.verdict(found).cpu_us_per_order.get(part)


def _cpu_together(found: Results) -> float | None:
    parts = results.verdict(found).cpu_us_per_order
    return sum(parts.values()) if parts else None


def _single(found: Results) -> float | None:
    """How many times as long as one bare confirmed publish an order takes."""
    orders, publishes = (select(found.runs, "single", name, "closed 1") for name in ("headrace", "bare-publish"))
    return results.median_ratio(orders, publishes, lambda run: run.latency_ms.p50 or 0.0)


def _between_variants(experiment: str, this: str, that: str) -> Callable[[Results], float | None]:
    def ratio(found: Results) -> float | None:
        these, those = (select(found.runs, experiment, "headrace", variant=it) for it in (this, that))
        return results.median_ratio(these, those, end_to_end)

    return ratio


def _ingest_rss(found: Results) -> float | None:
    return _highest(run.rss_mb.get("ingest_api") for run in _sustained(found))


def _queued_rss(part: str) -> Callable[[Results], float | None]:
    return lambda found: _highest(
        run.rss_mb.get(part) for run in select(found.runs, "backlog", load=MILLION, variant=ONE_WORKER)
    )


def _slope(found: Results) -> float | None:
    """The growth of the process that grows most."""
    soaks = [run for run in select(found.runs, "soak", "headrace") if run.seconds >= LEAST_SOAK_S]
    return _highest(run.rss_slope_mb_per_h.get(part) for run in soaks for part in OURS)


_us = _unit("µs")
_ms = _unit("ms", 1)
_mb = _unit("MB")
_SUSTAINED = "sustained end to end, 256 connections"
_CPU = "CPU for each order"
_OPEN = "1,000 orders/s, open loop, 60 s"
_QUEUED = "with 1 million orders queued"
GOALS = (
    Goal(f"{_SUSTAINED}: beside `sync-tuned`", 10, True, _times, lambda it: results.verdict(it).ratio_sync_tuned),
    Goal(f"{_SUSTAINED}: beside the best peer", 5, True, _times, lambda it: results.verdict(it).ratio_best_peer),
    Goal(f"{_SUSTAINED}: drained after the load, at the worst", 1, False, _unit("s", 2), _drained),
    Goal(
        "ingest alone, of what the endpoint that does nothing answers",
        0.75,
        True,
        _percent,
        lambda it: results.verdict(it).ingest_share_of_noop,
    ),
    Goal(f"{_CPU}, all parts without the generator", 180, False, _us, _cpu_together),
    Goal(f"{_CPU}: ingest_api", 100, False, _us, _cpu("ingest_api")),
    Goal(f"{_CPU}: RabbitMQ", 20, False, _us, _cpu("rabbitmq")),
    Goal(f"{_CPU}: persist_worker", 15, False, _us, _cpu("persist_worker")),
    Goal(f"{_CPU}: product_consumer", 15, False, _us, _cpu("product_consumer")),
    Goal(f"{_CPU}: PostgreSQL", 30, False, _us, _cpu("postgres")),
    Goal(f"{_OPEN}: p99 until it is accepted", 25, False, _ms, lambda it: _median(_p99_accept(it))),
    Goal(f"{_OPEN}: p99 from accepted to decided", 100, False, _ms, lambda it: _median(_p99_decided(it))),
    Goal(f"{_OPEN}: errors", 0, False, lambda it: f"{it:,.0f}", lambda it: _highest(r.errors for r in _at_1000(it))),
    Goal(
        f"{_OPEN}: of the machine, busy", 0.5, False, _percent, lambda it: _median(r.busy_share for r in _at_1000(it))
    ),
    Goal("one order at a time: p50 beside one bare confirmed publish", 1.5, False, _unit("×", 2), _single),
    Goal("one hot product beside 10,000", 0.9, True, _percent, _between_variants("hot_product", HOT, SPREAD)),
    Goal(
        "bulk of 500, end to end",
        25_000,
        True,
        _unit("orders/s"),
        lambda it: results.verdict(it).bulk_orders_per_s,
    ),
    Goal("5 million rows stored beside none", 0.85, True, _percent, _between_variants("growth", GROWN, EMPTY)),
    Goal("memory of ingest_api, 256 connections", 120, False, _mb, _ingest_rss),
    Goal(f"memory of persist_worker {_QUEUED}", 120, False, _mb, _queued_rss("persist_worker")),
    Goal(f"memory of product_consumer {_QUEUED}", 120, False, _mb, _queued_rss("product_consumer")),
    Goal("memory over 10 minutes at 1,000 orders/s grows by", LEAST_SLOPE_MB_PER_H, False, _unit("MB/h", 1), _slope),
)


def _p99_accept(found: Results) -> list[float | None]:
    return [run.latency_ms.p99 for run in _at_1000(found)]


def _p99_decided(found: Results) -> list[float | None]:
    return [run.decided_ms.p99 for run in _at_1000(found)]
