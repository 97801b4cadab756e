"""The plan of the benchmarks: it fits into the time that was promised, and compares what is to be compared."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from benchmarks.__main__ import INTERRUPTED, UnknownName, choose, exit_code, file_name, names, outline
from benchmarks.experiments import experiments
from benchmarks.experiments.ablations import ABLATIONS
from benchmarks.experiments.experiments import EXPERIMENTS, GROUPS, IN_QUICK, ONLY_BY_NAME, RATES, is_past_knee
from benchmarks.report.results import GENERATORS, KNEE, OPEN_LOOP, Percentiles
from benchmarks.run.plan import FULL, QUICK, Scale, left_s
from tests.support.data.bench_results import PUNCTUAL, a_run, some_results

BOTH = pytest.mark.parametrize(("scale", "quick"), [(FULL, False), (QUICK, True)], ids=["full", "quick"])


@BOTH
def test_the_plan_fits_into_the_time_that_was_promised(scale: Scale, quick: bool) -> None:
    steps, _ = choose(None, scale, quick=quick)
    most_s = 6 * 60 if quick else 45 * 60
    assert left_s(steps) <= scale.budget_s < most_s
    assert left_s(steps) > most_s / 2


def test_what_is_compared_is_measured_five_times_and_twice_in_a_hurry() -> None:
    for scale, least in ((FULL, 5), (QUICK, 2)):
        for name in ("saturation", "single", "ingest", "bulk", "hot_product", "limits"):
            assert {step.place.pair for step in EXPERIMENTS[name](scale)} == set(range(1, least + 1)), name


@BOTH
def test_contenders_take_turns(scale: Scale, quick: bool) -> None:
    steps = EXPERIMENTS["saturation"](scale)
    order = [step.contender.name for step in steps]
    first = order[: len(order) // scale.pairs]
    assert order == first * scale.pairs
    assert {"headrace", "sync-seed", "sync-tuned", "sync-statement"} < set(first)
    assert {it.name for it in experiments.CONTENDERS if it.peer} <= set(first)
    assert "sync-tuned-confirmed" in first or quick


def test_every_ablation_has_its_bar_beside_headrace_as_it_is() -> None:
    first = [step for step in EXPERIMENTS["ablations"](FULL) if step.place.pair == 1]
    assert [step.place.variant for step in first] == ["as it is", *(it.title for it in ABLATIONS)]


def test_growth_backlog_and_soak_are_as_large_as_the_goals_say() -> None:
    assert FULL.grown == (0, 1_000_000, 5_000_000)
    assert [step.place.variant for step in EXPERIMENTS["backlog"](FULL)] == [
        "1 persist_worker",
        "2 persist_workers",
        "4 persist_workers",
    ]
    assert {step.load for step in EXPERIMENTS["backlog"](FULL)} == {"1,000,000 queued"}
    assert (FULL.soak_s, FULL.open_loop_s) == (600, 60)


def test_rates_double_until_something_breaks() -> None:
    assert all(later == 2 * earlier for earlier, later in pairwise(RATES))
    fine = a_run(latency_ms=Percentiles(1.0, 2.0, 10.0, 50.0))
    late = a_run(latency_ms=Percentiles(1.0, 2.0, 1_001.0, 2_000.0))
    refused = a_run(latency_ms=fine.latency_ms, accepted=980, errors=20)
    assert [is_past_knee(run) for run in (fine, late, refused, a_run(void="1 lost"), a_run())] == [False, *[True] * 4]
    disturbed = a_run(experiment=KNEE, latency_ms=fine.latency_ms, steal_share=0.2)
    assert disturbed.disturbed
    assert not is_past_knee(disturbed)


@pytest.mark.parametrize("name", names())
def test_each_experiment_and_each_contender_can_be_had_alone(name: str) -> None:
    steps, skipped = choose(name, QUICK, quick=True)
    assert steps
    assert skipped == []
    found = {step.contender.name for step in steps} | {step.place.experiment for step in steps}
    assert name in found or name in GROUPS


def test_latency_is_all_open_loops_of_headrace_several_times_in_eight_minutes() -> None:
    steps, _ = choose("latency", FULL, quick=False)
    assert left_s(steps) < 8 * 60
    assert {it.contender.name for it in steps if it.place.experiment in (OPEN_LOOP, KNEE)} == {"headrace"}
    for experiment in (OPEN_LOOP, KNEE, GENERATORS):
        assert [it.place.pair for it in steps if it.place.experiment == experiment] == [1, 2, 3]


def test_a_wrong_name_is_told_what_there_is() -> None:
    with pytest.raises(UnknownName) as error:
        choose("nonsense", FULL, quick=False)
    assert all(name in str(error.value) for name in names())


@BOTH
def test_what_is_left_out_from_the_start_is_said(scale: Scale, quick: bool) -> None:
    steps, skipped = choose(None, scale, quick=quick)
    done = {step.place.experiment for step in steps}
    assert done | {it.experiment for it in skipped} == set(EXPERIMENTS)
    assert done == (set(IN_QUICK) if quick else set(EXPERIMENTS) - set(ONLY_BY_NAME))


def test_the_outline_has_a_line_for_each_step_and_the_sum() -> None:
    steps, _ = choose("single", QUICK, quick=True)
    assert len(outline(steps)) == len(steps) + 1
    assert outline(steps)[-1].endswith("in all")


def test_a_file_that_is_not_the_whole_says_so_in_its_name() -> None:
    started = datetime(2026, 1, 2, tzinfo=UTC)
    assert file_name("AMD EPYC", started, quick=False, only=None) == "2026-01-02-amd-epyc.json"
    assert file_name("AMD EPYC", started, quick=True, only="soak") == "2026-01-02-amd-epyc-soak-quick.json"


def test_the_exit_code_says_whether_it_proves_anything() -> None:
    assert exit_code(some_results(a_run())) == 0
    assert exit_code(some_results(a_run(), a_run("slow-peer", void="1 lost"))) == 1
    assert exit_code(some_results(a_run(failed="it died"))) == 1
    assert exit_code(some_results(a_run("slow-peer", failed="it died"))) == 0
    assert exit_code(some_results(a_run(), interrupted=True)) == INTERRUPTED
    quiet, disturbed = a_run(experiment=OPEN_LOOP, late_ms=PUNCTUAL), a_run(experiment=OPEN_LOOP, others_share=0.06)
    assert exit_code(some_results(quiet, disturbed)) == 0
    assert exit_code(some_results(a_run(), disturbed)) == 1
