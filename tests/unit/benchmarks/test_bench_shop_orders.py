"""The table of shop orders: ratios of the same round, beside what the goals name."""

from collections.abc import Sequence

from benchmarks.contenders.headrace import HEADRACE
from benchmarks.experiments.shop_orders import BASKETS, KINDS, NAME, OLDER, ONE_LINE, steps_of, tables
from benchmarks.report.results import Run

HOT, DETAILED, CANCELLED = KINDS[2:]


def run(kind: str, pair: int, per_s: float, **cpu_us: float) -> Run:
    return Run(
        experiment=NAME,
        contender="headrace",
        load="closed 256",
        pair=pair,
        variant=kind,
        accepted_per_s=1.1 * per_s,
        end_to_end_per_s=per_s,
        cpu_us_per_order={"ingest_api": 100.0, "generator": 50.0, **cpu_us},
    )


RUNS = [
    *(run(ONE_LINE.name, pair, per_s) for pair, per_s in ((1, 1_000), (2, 2_000))),
    *(run(BASKETS.name, pair, per_s, postgres=100.0) for pair, per_s in ((1, 700), (2, 1_200))),
    *(run(HOT.name, pair, per_s) for pair, per_s in ((1, 630), (2, 1_080))),
    *(run(OLDER.name, pair, per_s, rabbitmq=25.0) for pair, per_s in ((1, 1_000), (2, 2_500))),
]


def rows(runs: Sequence[Run], table: int) -> dict[str, tuple[str, ...]]:
    return {cells[0]: cells[1:] for cells in tables(runs)[table].rows}


def test_rates_and_goals_are_of_neighbours_in_time() -> None:
    found = rows(RUNS, 0)
    assert found[BASKETS.name][:2] == ("1,045", "950")
    assert found[BASKETS.name][3] == "65.0% (60% to 70%)"
    assert found[BASKETS.name][4] == "≥ 60 % of one line: 65.0% (60% to 70%)"
    assert found[HOT.name][4] == "≥ 80 % of 3 lines: 90.0% (90% to 90%)"
    assert found[ONE_LINE.name][4] == (
        "≥ 97 % of the other checkout: 90.0% (80% to 100%); CPU ≤ 103 %: 80.0% (80% to 80%)"
    )
    assert DETAILED.name not in found


def test_cpu_is_told_by_process_and_leaves_the_generator_out_of_the_sum() -> None:
    assert rows(RUNS, 1)[BASKETS.name] == ("200", "200.0% (200% to 200%)", "100", "0", "0", "0", "100", "0", "50")


def test_a_void_run_is_in_no_figure() -> None:
    lost = Run(experiment=NAME, contender="headrace", load="", pair=1, variant=ONE_LINE.name, void="1 lost")
    assert rows([lost, *RUNS[1:]], 0)[ONE_LINE.name][-1] == "1"


def test_each_round_has_every_kind_and_the_other_checkout_is_beside_plain_orders() -> None:
    steps = steps_of(len(KINDS), 7, 256, KINDS, HEADRACE)
    for pair in range(1, len(KINDS) + 1):
        names = [it.place.variant for it in steps if it.place.pair == pair]
        assert sorted(names) == sorted([*(it.name for it in KINDS), OLDER.name])
        assert abs(names.index(ONE_LINE.name) - names.index(OLDER.name)) == 1
    assert len({next(it.place.variant for it in steps if it.place.pair == pair) for pair in range(1, 6)}) == 5


def test_only_one_kind_cancels() -> None:
    assert [it.name for it in KINDS if it.cancelled] == [CANCELLED.name]
