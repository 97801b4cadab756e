"""docs/scaling.md says what was measured."""

import pytest

from benchmarks.report import scaling
from benchmarks.report.scaling import RATES, Scale, Stage, cost, measured, reckoned
from stack.home.directory import ROOT

DOCUMENT = ROOT / "docs" / "scaling.md"
CPU_US = {"ingest_api": 100.0, "rabbitmq": 20.0, "persist_worker": 15.0, "product_consumer": 25.0, "postgres": 40.0}


def stage(workers: int, rate: int) -> Stage:
    return Stage(
        stage="persist_worker",
        workers=workers,
        products="one product",
        orders_per_s=rate,
        cpu_us_per_order={"persist_worker": 14.0, "postgres": 20.0},
        busy_share=0.9,
        steal_share=0.1,
    )


def test_the_tables_are_those_of_the_result_files() -> None:
    text = DOCUMENT.read_text()
    assert scaling.rewritten(text, scaling.table_of) == text
    assert text.count("<!-- scale:") == 3


def test_more_workers_are_compared_with_one_of_the_same_run() -> None:
    found = Scale(
        "2026-01-01", "a machine", 1_000, [stage(1, 100), stage(2, 150), stage(1, 200), stage(2, 250), stage(1, 150)]
    )
    rows = measured(found).rows
    assert [row[2:5] for row in rows] == [("1", "150", "1.00 ×"), ("2", "200", "1.33 ×")]
    assert rows[0][5:] == ("14", "20", "0", "90%")


def test_what_an_order_costs_is_told_by_part_and_in_all() -> None:
    assert cost(CPU_US).rows == [("100", "20", "15", "25", "40", "200")]


def test_what_is_reckoned_leaves_room_and_rounds_up() -> None:
    rows = {row[0]: row[1:] for row in reckoned(CPU_US).rows}
    assert list(rows) == [f"{rate:,}" for rate in RATES]
    # 10,000/s × 100 µs are one core's worth, at 60 % two; and three nodes of the broker do the same each.
    assert rows["10,000"] == ("1", "2", "1", "1", "3 (1)", "1 (1)")
    assert rows["1,000,000"] == ("10", "167", "25", "42", "30 (100)", "10 (67)")


def test_a_marker_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table of 'x'"):
        scaling.rewritten("<!-- scale:x from benchmarks/results/audit_time.json -->\n<!-- /scale -->", scaling.table_of)
