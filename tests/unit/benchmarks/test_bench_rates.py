"""What a client waits at a rate: only quiet runs count, several of them, and the documents say which."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import documents, goals, rates, results, sentences
from benchmarks.report.results import KNEE, OPEN_LOOP, Percentiles, Results, Run
from benchmarks.run.plan import in_words
from tests.support.data.bench_results import PUNCTUAL, a_run, some_results


def at_rate(p99_ms: float, load: str = "open 1000/s", *, experiment: str = OPEN_LOOP, **more: Any) -> Run:
    latency = Percentiles(p99_ms / 3, p99_ms / 2, p99_ms, 5 * p99_ms, 2 * p99_ms)
    return a_run(experiment=experiment, load=load, latency_ms=latency, seconds=60.0, **{"late_ms": PUNCTUAL, **more})


DISTURBED: dict[str, dict[str, Any]] = {
    "steal": {"steal_share": 0.051},
    "other processes": {"others_share": 0.051},
    "both": {"steal_share": 0.03, "others_share": 0.03},
    "a late generator": {"late_ms": Percentiles(0.1, 0.5, 2.6, 9.0, 5.0)},
}


@pytest.mark.parametrize("why", DISTURBED)
@pytest.mark.parametrize("experiment", results.OPEN_LOOPS)
def test_a_disturbed_open_loop_is_void(why: str, experiment: str) -> None:
    run = at_rate(10.0, experiment=experiment, **DISTURBED[why])
    assert run.disturbed is not None
    assert not run.counts
    assert f"VOID: {run.disturbed}" in in_words(run)


def test_a_generator_that_does_not_tell_how_late_it_was_is_not_believed() -> None:
    by_k6 = at_rate(10.0, late_ms=Percentiles(), generator="k6")
    assert by_k6.disturbed == "k6 tells no lateness"
    assert at_rate(10.0, experiment=results.GENERATORS, late_ms=Percentiles()).counts


def test_a_quiet_one_counts_and_so_does_what_measures_no_latency() -> None:
    quiet = at_rate(10.0, steal_share=0.02, others_share=0.029, late_ms=Percentiles(0.1, 0.3, 1.9, 9.0, 5.0))
    assert quiet.counts
    assert at_rate(16.0, late_ms=Percentiles(0.1, 0.3, 3.9, 9.0, 5.0)).counts, "less than a quarter of what it tells"
    assert a_run(steal_share=0.2).counts
    assert a_run(experiment="soak", load="open 1000/s", others_share=0.2).counts


def test_the_median_of_the_quiet_runs_is_told_and_judged() -> None:
    runs = [at_rate(9.0), at_rate(12.0, pair=2), at_rate(10.0, pair=3), at_rate(137.0, pair=4, steal_share=0.12)]
    found = some_results(*runs)
    table = rates.open_loop(found)
    assert table is not None
    (row,) = table.rows
    assert row[3:6] == ("10.0", "9.0 to 12.0", "20.0")
    assert row[-1] == "4 of 60 s (1 VOID)"
    assert "0123456789ab" in table.below
    (p99,) = [it for it in goals.judge([found]) if it.goal.words.endswith("p99 until it is accepted")]
    assert p99.value == 10.0
    not_counted = sentences.not_counted(found)
    assert not_counted is not None
    assert [row[3:] for row in not_counted.rows] == [("VOID", "12 % of the machine went to others, and 5 % may")]
    assert "0 void" in sentences.correctness(found)
    assert "1 run of an open loop void: in 1 more than 5 % of the machine" in sentences.correctness(found)


def test_each_void_open_loop_has_its_true_reason() -> None:
    busy, late = at_rate(10.0, steal_share=0.2), at_rate(10.0, late_ms=Percentiles(0.1, 0.5, 2.6, 9.0, 5.0))
    silent = at_rate(10.0, late_ms=Percentiles(), generator="k6")
    said = sentences.correctness(some_results(busy, silent, late, at_rate(10.0)))
    assert said.endswith(
        "3 runs of an open loop void: in 1 more than 5 % of the machine went to others;"
        " in 1 the generator does not say how late it was; in 1 the generator was late."
    )


def test_a_sentence_says_what_a_client_waits() -> None:
    fast = at_rate(15.0, "open 4000/s", experiment=KNEE)
    text = rates.sentence(some_results(at_rate(9.0), at_rate(12.0, pair=2), at_rate(10.5, pair=3), fast))
    assert text is not None
    for words in ("half are answered within 3.5 ms, 99 % within 10.5 ms", "99.9 % within 21.0 ms", "Median of 3 runs"):
        assert words in text
    assert "at 4,000/s, 99 % within 15.0 ms" in text
    assert rates.sentence(some_results(at_rate(9.0, steal_share=0.5), fast)) is None


def test_the_generators_stand_beside_each_other() -> None:
    def by(name: str, cpu_us: float, **more: Any) -> Run:
        cpu = {"ingest_api": 60.0, "generator": cpu_us}
        return at_rate(1.0, experiment=results.GENERATORS, variant=name, cpu_us_per_order=cpu, **more)

    ours = by("ours", 40.0, late_ms=Percentiles(0.1, 0.1, 0.2, 1.0, 0.5))
    table = rates.generators(some_results(ours, by("k6", 500.0, late_ms=Percentiles())))
    assert table is not None
    assert [(row[0], *row[5:7]) for row in table.rows] == [("ours", "0.2", "40"), ("k6", "–", "500")]


# ── documents

LATENCY = some_results(at_rate(9.0), at_rate(10.0, pair=2), only="latency")
WHOLE = some_results(a_run(rate=1_000), a_run("sync-tuned", 100), at_rate(30.0))
OLD = some_results(at_rate(137.0, steal_share=0.12), only="open_loop")
SOAK = some_results(a_run(experiment="soak", seconds=600.0, rss_slope_mb_per_h={"ingest_api": 0.5}), only="soak")
FILES = {"latency.json": LATENCY, "whole.json": WHOLE, "old.json": OLD, "soak.json": SOAK}


def load(file: str) -> Results:
    return FILES[file]


def block(name: str, *files: str) -> str:
    return f"<!-- bench:{name} from {' '.join(files)} -->\n<!-- /bench -->\n"


def test_what_only_latency_measured_is_quoted_and_the_rest_stays_what_it_is() -> None:
    document = block("goals", "old.json", "whole.json", "soak.json") + block("environment", "whole.json")
    document += block("summary", "whole.json") + block("open_loop", "whole.json") + block("latency", "whole.json")
    text = documents.rewritten(document, load, "images", ["latency.json"])
    assert "bench:goals from latency.json whole.json soak.json" in text, "the file that is void adds nothing"
    assert "| 1,000 orders/s, open loop, 60 s: p99 until it is accepted | ≤ 25 ms | 9.5 ms | met |" in text
    assert "| ≥ 10 × | 10.0 × | met |" in text
    assert "| 0.5 MB/h | met |" in text
    assert "bench:environment from whole.json" in text
    assert "bench:summary from whole.json" in text
    assert "bench:open_loop from latency.json" in text
    assert "bench:latency from latency.json" in text
    assert documents.rewritten(text, load, "images") == text


def test_the_report_of_such_a_file_alone_still_says_where_it_was_measured(tmp_path: Path) -> None:
    from benchmarks.report import page

    assert "AMD EPYC 7B13" in page.page(LATENCY, {}, "")
