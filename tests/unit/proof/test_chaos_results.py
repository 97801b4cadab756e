"""The table in docs/reliability.md is that of docs/reliability.json."""

import pytest

from tests.chaos.account import results
from tests.chaos.account.results import Results, Row, make_run, missing, rewritten, table, unfinished, with_run

DOCUMENT = "# Title\n\n<!-- chaos -->\nby hand\n<!-- /chaos -->\n\nBelow.\n"


def row(scenario: str = "2", **changes: object) -> Row:
    fields: dict[str, object] = {
        "scenario": scenario,
        "what": f"what {scenario} is",
        **dict.fromkeys(("offered", "ok"), 1_000),
        **dict.fromkeys(("refused", "unknown", "lost", "duplicated", "oversold"), 0),
        "recover_s": 0.5,
        "unknown_as": {},
        "broken": [],
    }
    return Row(**{**fields, **changes})  # type: ignore[arg-type]


def runs(*rows: list[Row]) -> Results:
    return Results([make_run(number, "2026-01-02T03:04:05", "a machine", "1a2b", it) for number, it in enumerate(rows)])


def lines(found: Results) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table(found).splitlines()[2:] if line.startswith("|")]


def test_the_document_says_what_the_file_says() -> None:
    text = results.DOCUMENT.read_text()
    assert rewritten(text, results.load()) == text


def test_what_stands_between_the_markers_is_made_and_the_rest_is_kept() -> None:
    text = rewritten(DOCUMENT, runs([row()]))
    assert "by hand" not in text
    assert text.startswith("# Title\n\n<!-- chaos -->\n\n|")
    assert text.endswith("\n<!-- /chaos -->\n\nBelow.\n")
    assert rewritten(text, runs([row()])) == text


def test_a_document_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 blocks"):
        rewritten("# Title\n", runs([row()]))


def test_runs_are_summed_and_the_longest_recovery_counts() -> None:
    found = runs([row(lost=1, recover_s=0.5)], [row(recover_s=2.0, broken=["I7"])])
    assert lines(found) == [["2", "what 2 is", "2,000", "2,000", "0", "0", "1", "0", "0", "2.0", "I7", "2"]]


def test_one_that_never_came_back_is_told() -> None:
    assert lines(runs([row()], [row(recover_s=None)]))[0][9] == "never"


def test_scenarios_are_in_the_order_of_their_numbers() -> None:
    assert [it[0] for it in lines(runs([row("10"), row("2"), row("1")]))] == ["1", "2", "10"]


def test_the_last_three_runs_are_kept() -> None:
    kept = runs([row()], [row()], [row()])
    added = with_run(kept, make_run(9, "2026", "m", "1a2b", [row()]))
    assert [run.seed for run in added.runs] == [1, 2, 9]


def test_a_scenario_that_never_came_to_its_account_is_broken_and_never_back() -> None:
    assert lines(runs([unfinished("what 2 is", "2")]))[0] == ["2", "what 2 is", *["0"] * 7, "never", "test", "1"]


def test_a_run_without_one_of_the_scenarios_is_told_which() -> None:
    rows = [row(str(number)) for number in range(1, results.SCENARIOS + 1)]
    assert missing(rows) == []
    assert missing([*rows[:3], *rows[4:-2]]) == ["4", str(results.SCENARIOS - 1), str(results.SCENARIOS)]


def test_what_clients_saw_of_the_unknown_is_told() -> None:
    line = row(unknown=3, unknown_as={"0 reset": 2, "503 overloaded": 1}).line()
    assert "3 UNKNOWN (2 × 0 reset, 1 × 503 overloaded)" in line
