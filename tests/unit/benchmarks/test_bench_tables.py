"""Tables of the benchmarks: figures of what counts, and what does not count is told beside them."""

import pytest

from benchmarks.report import rates, sentences, tables
from benchmarks.report.number_format import ms, number, percent, times
from benchmarks.report.results import Percentiles, Run, Skipped
from benchmarks.report.tables import Table, markdown
from tests.support.data.bench_results import PUNCTUAL, a_run, some_results

COMPARED = [
    a_run(rate=1_000, pair=1, cpu_us_per_order={"ingest_api": 100.0, "postgres": 50.0, "generator": 30.0}),
    a_run(rate=2_000, pair=2, cpu_us_per_order={"ingest_api": 110.0, "postgres": 60.0, "generator": 30.0}),
    a_run("sync-tuned", 100, pair=1, cpu_us_per_order={"api": 900.0, "worker": 300.0}, errors=7),
    a_run("sync-tuned", 9_999, pair=2, void="5 answered and not stored"),
    a_run("fast-peer", failed="it died"),
]


def rows(table: Table | None) -> dict[str, tuple[str, ...]]:
    assert table is not None
    assert all(len(row) == len(table.head) for row in table.rows)
    return {row[0]: row[1:] for row in table.rows}


def test_a_contender_is_told_by_the_median_of_what_counts_and_by_all_that_does_not() -> None:
    found = rows(tables.comparison(some_results(*COMPARED)))
    assert list(found) == ["**Headrace**", "synchronous, tuned", "a <fast> peer"]
    assert found["**Headrace**"][:4] == ("1,500", "1,000 to 2,000", "–", "160")
    assert found["synchronous, tuned"][:4] == ("100", "–", "10.0 ×", "1,200")
    assert found["synchronous, tuned"][-2:] == ("2 (1 VOID, 7 errors)", "In PostgreSQL.")
    assert found["a <fast> peer"][-2] == "1 (1 FAILED)"


def test_the_summary_says_the_same_as_the_comparison() -> None:
    found = some_results(*COMPARED)
    short, long = rows(tables.summary(found)), rows(tables.comparison(found))
    assert {name: row[:4] for name, row in short.items()} == {name: row[:4] for name, row in long.items()}


def test_the_parts_of_an_orders_cost_add_up_without_the_generator() -> None:
    table = tables.cpu(some_results(*COMPARED))
    assert table is not None
    headrace = dict(zip(table.head, table.rows[0], strict=True))
    assert (headrace["API"], headrace["PostgreSQL"], headrace["together"], headrace["generator"]) == (
        "105",
        "55",
        "160",
        "30",
    )


def test_a_generator_that_used_up_its_core_is_told() -> None:
    assert tables.remarks([a_run(generator_bound=True), a_run(pair=2)]) == "2 (1 GENERATOR-BOUND)"


def test_nothing_measured_is_no_table() -> None:
    made = (tables.summary, tables.comparison, tables.cpu, tables.ablations, tables.growth, tables.backlog)
    more = (tables.hot_product, tables.limits, rates.open_loop, sentences.not_counted, sentences.skipped)
    assert {make(some_results()) for make in (*made, *more)} == {None}


def ablation(variant: str, rate: float, pair: int = 1) -> Run:
    return a_run(rate=rate, experiment="ablations", variant=variant, pair=pair)


def test_what_is_taken_away_is_compared_with_headrace_as_it_is_in_the_same_round() -> None:
    runs = [ablation("as it is", 1_000), ablation("slow", 500), ablation("as it is", 400, 2), ablation("slow", 100, 2)]
    found = rows(tables.ablations(some_results(*runs)))
    assert found["slow"][:3] == ("300", "100 to 500", "38 %")


def test_growth_is_told_beside_empty_tables_and_the_hot_product_beside_the_spread_ones() -> None:
    growth = [a_run(rate=rate, experiment="growth", variant=rows) for rows, rate in (("0 rows", 100), ("9 rows", 80))]
    assert rows(tables.growth(some_results(*growth)))["9 rows"][2] == "80 %"
    hot = [
        a_run(rate=rate, experiment="hot_product", variant=variant)
        for variant, rate in (("1 product", 90), ("10,000 products", 100))
    ]
    assert rows(tables.hot_product(some_results(*hot)))["1 product"][2] == "90 %"


def test_a_part_is_told_with_its_share_of_its_limit() -> None:
    runs = [a_run("headrace-ingest", 600, experiment="ingest"), a_run("noop", 1_000, experiment="ingest")]
    table = tables.limits(some_results(*runs))
    assert table is not None
    assert table.rows == [("ingest_api alone", "600", "noop", "1,000", "60 %")]


def test_a_rate_that_was_too_much_is_a_row_like_the_others() -> None:
    runs = [
        a_run(
            experiment="knee",
            load="open 250/s",
            latency_ms=Percentiles(1.0, 2.0, 3.25, 4.0),
            busy_share=0.2,
            late_ms=PUNCTUAL,
        ),
        a_run(experiment="knee", load="open 500/s", failed="no answer"),
    ]
    table = rates.open_loop(some_results(*runs))
    assert table is not None
    assert table.rows[0] == ("Headrace", "open 250/s", "1.0", "3.2", "3.2 to 3.2", "–", "–", "0", "20 %", "1 of 1 s")
    assert table.rows[1] == ("Headrace", "open 500/s", *["–"] * 7, "1 of 1 s (1 FAILED)")


def test_markdown_sets_figures_to_the_right_and_survives_what_is_in_a_cell() -> None:
    table = Table(("", "n"), [("a|b\nc", "1")], below="Below.")
    assert markdown(table) == "|  | n |\n|---|--:|\n| a\\|b c | 1 |\n\nBelow."


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (number(12_345.6), "12,346"),
        (number(None), "–"),
        (ms(9.96), "10.0"),
        (ms(1_234.5), "1,234"),
        (times(2.345), "2.35 ×"),
        (times(23.45), "23.4 ×"),
        (percent(0.845), "84 %"),
    ],
)
def test_figures_have_the_digits_that_one_can_tell(told: str, words: str) -> None:
    assert told == words


def test_the_verdict_is_one_sentence_and_a_void_run_comes_before_it() -> None:
    runs = [
        a_run(rate=6_000, cpu_us_per_order={"ingest_api": 90.0}),
        a_run("sync-tuned", 500),
        a_run("fast-peer", 1_000),
        a_run("sync-statement", 2_000),
    ]
    assert sentences.verdict(some_results(*runs)) == (
        "Headrace sustains 6,000 orders/s end to end with 256 connections: 12.0 times as many as the tuned synchronous"
        " design; 6.0 times as many as the best of the common stacks tried (a <fast> peer); 3.0 times as many as one"
        " SQL statement for each order, and no broker; each order costs 90 µs of CPU, all parts together."
    )
    fewer = a_run(rate=4_000, load="closed 64"), a_run("sync-statement", 2_500, load="closed 64")
    assert "no broker (1.6 times with 64 connections);" in sentences.verdict(some_results(*runs, *fewer))
    assert sentences.verdict(some_results(*runs, a_run(pair=2, void="1 lost"))).startswith("1 run lost orders")
    assert sentences.verdict(some_results()) == "Headrace was not compared with anything in this run."


def test_correctness_counts_everything_that_went_wrong() -> None:
    runs = [a_run(errors=3, accepted=50), a_run(void="1 lost"), a_run(failed="it died"), a_run(generator_bound=True)]
    said = sentences.correctness(some_results(*runs, a_run("sync-tuned", errors=2, void="1 lost")))
    for words in ("5 runs", "2 void", "1 failed", "5 requests", "1 generator-bound"):
        assert words in said
    assert "3 of Headrace (3 in runs that count), 2 of the designs compared with it (0 in runs that count)" in said


def test_what_makes_results_worth_less_is_said() -> None:
    def said(*runs: Run, **more: object) -> str:
        return " ".join(sentences.beware(some_results(*runs, **more)))

    assert said(a_run()) == ""
    assert "quick run" in said(quick=True)
    assert "interrupted" in said(interrupted=True)
    assert "1 run GENERATOR-BOUND" in said(a_run(generator_bound=True))
    assert "1 run more than 10 %" in said(a_run(others_share=0.06, steal_share=0.05))
    assert "no commit holds" in said(revision="0123456789ab+")


def test_what_was_void_failed_or_left_out_is_listed_with_its_reason() -> None:
    found = some_results(*COMPARED, skipped=[Skipped("soak", "soak", "not in this run")])
    told = sentences.not_counted(found)
    assert told is not None
    assert [row[-2:] for row in told.rows] == [("VOID", "5 answered and not stored"), ("FAILED", "it died")]
    left_out = sentences.skipped(found)
    assert left_out is not None
    assert list(left_out.rows) == [("soak", "soak", "not in this run")]
