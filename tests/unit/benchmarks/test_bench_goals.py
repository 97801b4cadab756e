"""The goals of the benchmarks: each is measured from the runs that it speaks of, and judged by its bound."""

from typing import Any

import pytest

from benchmarks.report.goals import GOALS, Goal, judge
from benchmarks.report.results import Percentiles, Run
from tests.support.data.bench_results import PUNCTUAL, a_run, some_results

CPU = {"ingest_api": 90.0, "rabbitmq": 15.0, "persist_worker": 10.0, "product_consumer": 12.0, "postgres": 25.0}


def with_p50(ms: float) -> Percentiles:
    return Percentiles(ms, ms, ms, ms)


def at_1000(**more: Any) -> Run:
    fine = {"latency_ms": with_p50(9.0), "decided_ms": with_p50(80.0), "busy_share": 0.4}
    return a_run(experiment="open_loop", load="open 1000/s", late_ms=PUNCTUAL, **{**fine, **more})


def sustained(**more: Any) -> Run:
    fine = {
        "cpu_us_per_order": {**CPU, "redis": 3.0, "generator": 30.0},
        "rss_mb": {"ingest_api": 70.0},
        "drain_s": 0.2,
    }
    return a_run(**{"rate": 6_000, **fine, **more})


def growth(rows: str, rate: float, pair: int = 1) -> Run:
    return a_run(rate=rate, experiment="growth", variant=f"{rows} rows stored", pair=pair)


def queued(**rss_mb: float) -> Run:
    return a_run(experiment="backlog", load="1,000,000 queued", variant="1 persist_worker", rss_mb=rss_mb)


def hot(variant: str, rate: float) -> Run:
    return a_run(rate=rate, experiment="hot_product", variant=variant)


def soak(slope: float, seconds: float = 600) -> Run:
    slopes = {"ingest_api": 0.1, "persist_worker": slope, "postgres": 900.0}
    return a_run(experiment="soak", load="open 1000/s", seconds=seconds, rss_slope_mb_per_h=slopes)


MET = [
    sustained(),
    a_run("sync-tuned", 600),
    a_run("fast-peer", 1_200),
    a_run("headrace-ingest", 7_500, experiment="ingest"),
    a_run("noop", 10_000, experiment="ingest"),
    at_1000(),
    a_run(experiment="single", load="closed 1", latency_ms=with_p50(1.5)),
    a_run("bare-publish", experiment="single", load="closed 1", latency_ms=with_p50(1.0)),
    hot("1 product", 950),
    hot("10,000 products", 1_000),
    a_run("headrace-bulk", 25_000, experiment="bulk", load="closed 8"),
    growth("0", 1_000),
    growth("5,000,000", 850),
    queued(persist_worker=100.0, product_consumer=90.0),
    soak(2.0),
]


def judged(words: str, runs: list[Run]) -> tuple[str, bool | None]:
    """Of the one goal whose words begin so."""
    (found,) = [it for it in judge([some_results(*runs)]) if it.goal.words.startswith(words)]
    return found.value_words, found.met


def test_all_goals_can_be_met() -> None:
    assert [it.goal.words for it in judge([some_results(*MET)]) if not it.met] == []


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {it.met for it in judge([some_results()])} == {None}
    assert {it.value_words for it in judge([some_results()])} == {"not measured"}


@pytest.mark.parametrize(
    ("words", "runs", "value"),
    [
        ("sustained end to end, 256 connections: beside `sync", [sustained(), a_run("sync-tuned", 601)], "10.0 ×"),
        ("sustained end to end, 256 connections: beside the", [sustained(), a_run("fast-peer", 1_500)], "4.0 ×"),
        ("sustained end to end, 256 connections: drained", [sustained(), sustained(pair=2, drain_s=1.2)], "1.20 s"),
        (
            "ingest alone",
            [a_run("headrace-ingest", 700, experiment="ingest"), a_run("noop", 1_000, experiment="ingest")],
            "70 %",
        ),
        (
            "CPU for each order, all parts",
            [sustained(cpu_us_per_order={**CPU, "redis": 40.0, "generator": 1.0})],
            "192 µs",
        ),
        ("CPU for each order: ingest_api", [sustained(cpu_us_per_order={"ingest_api": 101.0})], "101 µs"),
        ("CPU for each order: RabbitMQ", [sustained(cpu_us_per_order={"rabbitmq": 21.0})], "21 µs"),
        ("CPU for each order: persist_worker", [sustained(cpu_us_per_order={"persist_worker": 16.0})], "16 µs"),
        ("CPU for each order: product_consumer", [sustained(cpu_us_per_order={"product_consumer": 16.0})], "16 µs"),
        ("CPU for each order: PostgreSQL", [sustained(cpu_us_per_order={"postgres": 31.0})], "31 µs"),
        ("1,000 orders/s, open loop, 60 s: p99 until", [at_1000(latency_ms=with_p50(25.1))], "25.1 ms"),
        ("1,000 orders/s, open loop, 60 s: p99 from", [at_1000(decided_ms=with_p50(100.1))], "100.1 ms"),
        ("1,000 orders/s, open loop, 60 s: errors", [at_1000(errors=1)], "1"),
        ("1,000 orders/s, open loop, 60 s: of the machine", [at_1000(busy_share=0.51)], "51 %"),
        (
            "one order at a time",
            [
                a_run(experiment="single", load="closed 1", latency_ms=with_p50(1.6)),
                a_run("bare-publish", experiment="single", load="closed 1", latency_ms=with_p50(1.0)),
            ],
            "1.60 ×",
        ),
        ("one hot product", [hot("1 product", 890), hot("10,000 products", 1_000)], "89 %"),
        ("bulk of 500", [a_run("headrace-bulk", 24_999, experiment="bulk")], "24,999 orders/s"),
        ("5 million rows", [growth("0", 1_000), growth("5,000,000", 840)], "84 %"),
        ("memory of ingest_api", [sustained(rss_mb={"ingest_api": 121.0})], "121 MB"),
        ("memory of persist_worker", [queued(persist_worker=121.0)], "121 MB"),
        ("memory of product_consumer", [queued(product_consumer=121.0)], "121 MB"),
        ("memory over 10 minutes", [soak(10.1)], "10.1 MB/h"),
    ],
)
def test_each_goal_can_be_missed(words: str, runs: list[Run], value: str) -> None:
    assert judged(words, runs) == (value, False)


def test_a_void_run_meets_no_goal() -> None:
    assert judged("bulk of 500", [a_run("headrace-bulk", 99_000, experiment="bulk", void="1 lost")])[1] is None


def test_less_than_what_a_goal_speaks_of_is_no_measurement_of_it() -> None:
    fewer = a_run(
        experiment="backlog", load="100,000 queued", variant="1 persist_worker", rss_mb={"persist_worker": 50.0}
    )
    assert judged("memory of persist_worker", [fewer])[1] is None
    assert judged("5 million rows", [growth("0", 1_000), growth("500,000", 1_000)])[1] is None
    assert judged("memory over 10 minutes", [soak(0.0, seconds=30)])[1] is None


def test_what_one_file_does_not_have_is_taken_from_the_next() -> None:
    whole, other = some_results(sustained()), some_results(sustained(rss_mb={"ingest_api": 999.0}), soak(1.0))
    found = {it.goal.words: it for it in judge([whole, other])}
    assert found["memory of ingest_api, 256 connections"].value == 70.0
    assert found["memory over 10 minutes at 1,000 orders/s grows by"].value == 1.0


def test_bounds_are_told_as_the_issue_tells_them() -> None:
    def bound(words: str) -> str:
        (goal,) = [it for it in GOALS if it.words.startswith(words)]
        return goal.bound_words

    assert bound("sustained end to end, 256 connections: beside `sync") == "≥ 10 ×"
    assert bound("sustained end to end, 256 connections: drained") == "≤ 1 s"
    assert bound("1,000 orders/s, open loop, 60 s: errors") == "0"
    assert bound("1,000 orders/s, open loop, 60 s: p99 from") == "≤ 100 ms"
    assert bound("one order at a time") == "≤ 1.5 ×"
    assert bound("memory over 10 minutes") == "≤ 10 MB/h"
    assert bound("bulk of 500") == "≥ 25,000 orders/s"


def test_a_bound_itself_is_met() -> None:
    goal = Goal("", 10, at_least=True, show=str, value=lambda _: None)
    assert goal.is_met(10)
    assert not goal.is_met(9.99)
