"""Medians and ratios of the benchmarks: of neighbours, and never of a run that proves nothing."""

import pytest

from benchmarks.report.results import (
    Verdict,
    best_peer,
    decode,
    encode,
    end_to_end,
    median_by_part,
    median_ratio,
    ratios,
    select,
    spread,
    summary,
    verdict,
)
from tests.support.data.bench_results import a_run, some_results


def test_a_spread_is_the_median_between_the_lowest_and_the_highest() -> None:
    found = spread([3.0, 1.0, 10.0])
    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (3.0, 1.0, 10.0, 3)
    assert spread([]) is None


def test_ratios_are_those_of_neighbours() -> None:
    ours = [a_run(rate=1_000, pair=1), a_run(rate=400, pair=2)]
    theirs = [a_run("sync-tuned", 200, pair=2), a_run("sync-tuned", 100, pair=1)]
    assert ratios(ours, theirs, end_to_end) == [10.0, 2.0]
    assert median_ratio(ours, theirs, end_to_end) == 6.0


def test_a_run_without_a_neighbour_is_in_no_ratio() -> None:
    assert ratios([a_run(pair=1), a_run(pair=2)], [a_run("sync-tuned", 500, pair=2)], end_to_end) == [2.0]
    assert median_ratio([a_run(pair=1)], [a_run("sync-tuned", pair=2)], end_to_end) is None


def test_a_neighbour_that_did_nothing_gives_no_ratio() -> None:
    assert ratios([a_run()], [a_run("sync-tuned", 0)], end_to_end) == []


@pytest.mark.parametrize("reason", [{"void": "1 answered and not stored"}, {"failed": "it died"}])
def test_what_is_void_or_failed_is_in_no_figure(reason: dict[str, str]) -> None:
    runs = [a_run(rate=100), a_run(rate=9_999, pair=2, **reason)]
    assert [run.pair for run in select(runs, "saturation", "headrace")] == [1]
    assert verdict(some_results(*runs)).headrace_orders_per_s == 100


def test_the_verdict_compares_with_the_peer_that_sustains_most() -> None:
    runs = [a_run(rate=900), a_run("sync-tuned", 90), a_run("slow-peer", 100), a_run("fast-peer", 300)]
    said = verdict(some_results(*runs))
    assert (said.ratio_sync_tuned, said.best_peer, said.ratio_best_peer) == (10.0, "fast-peer", 3.0)


def test_a_void_peer_is_not_the_best_one() -> None:
    runs = [a_run("slow-peer", 100), a_run("fast-peer", 300, void="9 answered and not stored")]
    assert best_peer(runs, ["slow-peer", "fast-peer"]) == "slow-peer"
    assert best_peer(runs, []) is None


def test_the_cost_of_an_order_is_the_median_of_each_part_without_the_generator() -> None:
    runs = [
        a_run(pair=pair, cpu_us_per_order={"ingest_api": us, "postgres": 2 * us, "generator": 500.0})
        for pair, us in ((1, 10.0), (2, 30.0), (3, 20.0))
    ]
    assert median_by_part(runs) == {"ingest_api": 20.0, "postgres": 40.0, "generator": 500.0}
    assert verdict(some_results(*runs)).cpu_us_per_order == {"ingest_api": 20.0, "postgres": 40.0}


def test_nothing_measured_is_nothing_said() -> None:
    said = verdict(some_results())
    assert said == Verdict(None, None, None, None, None, None, None, None, {})


def test_the_summary_names_every_run_that_proves_nothing() -> None:
    found = summary(some_results(a_run(void="2 lost"), a_run("slow-peer", failed="it died"), a_run(pair=2)))
    assert found["void"] is True
    assert [(run["contender"], run["reason"]) for run in found["void_runs"]] == [("headrace", "2 lost")]
    assert [(run["contender"], run["reason"]) for run in found["failed_runs"]] == [("slow-peer", "it died")]


def test_a_result_file_is_read_as_it_was_written() -> None:
    found = some_results(a_run(notes=["…"], rss_mb={"ingest_api": 60.0}), a_run(void="1 lost"))
    assert decode(encode(found)) == found
