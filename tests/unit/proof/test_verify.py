"""What an audit makes of what it reads, how it says so, and whose database it asks."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proof.audit_sql import Counts
from proof.offenders import CHECKS, STOCK, Offender, Trace, is_late, judge
from stack.home.directory import ROOT
from stack.operate.verify_report import Report

COUNTS = Counts(
    orders=1_234, processed=1_000, failed=200, cancelled=0, dead_letters=1, discarded=2, products=9, pending=34
)

traces = st.builds(
    Trace,
    id=st.just("id"),
    product_id=st.none() | st.sampled_from("ab"),
    quantity=st.sampled_from([1, 2]),
    lines=st.sampled_from([None, 2, 3]),
    decided_product_id=st.sampled_from("ab"),
    decided_quantity=st.sampled_from([1, 2]),
    decided_lines=st.sampled_from([None, 2, 3]),
    outcome=st.none() | st.sampled_from(["PROCESSED", "FAILED", "CANCELLED"]),
    parked=st.none() | st.just("stock"),
    is_discarded=st.booleans(),
    is_failed=st.booleans(),
    waiting_s=st.floats(-1, 100),
    decided_s=st.floats(-1, 100),
)


@given(traces, st.floats(0, 100))
def test_an_order_is_an_offender_for_what_is_wrong_and_for_nothing_else(trace: Trace, lag_s: float) -> None:
    checks = [it.check for it in judge(trace, lag_s)]
    is_decided = trace.outcome is not None
    assert trace.waiting_s is not None
    assert trace.decided_s is not None
    is_same = trace.lines == trace.decided_lines and (
        trace.lines is not None
        or (trace.product_id, trace.quantity) == (trace.decided_product_id, trace.decided_quantity)
    )
    assert ("no_verdict" in checks) == (not is_decided and not trace.is_failed and trace.waiting_s > lag_s)
    assert ("no_verdict" in checks) == is_late(trace, lag_s)
    is_given_up = trace.is_discarded and trace.outcome == "FAILED"
    assert ("verdict_without_order" in checks) == (is_decided and trace.product_id is None and not is_given_up)
    assert ("verdict_differs" in checks) == (is_decided and trace.product_id is not None and not is_same)
    is_parked = trace.parked is not None and trace.outcome != "CANCELLED"
    assert ("two_verdicts" in checks) == (is_decided and is_parked and trace.decided_s > lag_s)
    assert len(checks) == len(set(checks))


def reported(found: list[Offender], capsys: pytest.CaptureFixture[str], *, as_json: bool) -> str:
    report = Report(60, as_json=as_json)
    for offender in found:
        report.add(offender)
    report.end(COUNTS, 1.25)
    assert report.is_clean == (not found)
    return capsys.readouterr().out


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_json_is_valid_however_many_offenders_there_are(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = [Offender(STOCK, f'"{number}"\n', "ä", "b") for number in range(count)]
    report = json.loads(reported(found, capsys, as_json=True))
    assert [Offender(**it) for it in report["offenders"]] == found
    assert (report["checks"][STOCK], report["clean"], report["seconds"]) == (count, not count, 1.25)


def test_an_offender_is_printed_as_it_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        Report(60, as_json=as_json).add(Offender(STOCK, "id", "one", "two"))
        assert "two" in capsys.readouterr().out


def test_an_audit_that_fails_has_printed_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        Report(60, as_json=as_json).add(Offender(STOCK, "id", "one", "two"))
        printed = capsys.readouterr().out
        assert "clean" not in printed
        assert "nothing lost" not in printed
        assert "offenders: " not in printed


def test_a_report_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported([], capsys, as_json=False).splitlines() == [
        "1,234 orders: 1,000 PROCESSED, 200 FAILED, 34 without a verdict, of which 0 for more than 60 s",
        "1 dead letter waiting, 2 discarded, 9 products",
        "one snapshot, 1.2 s",
        "nothing lost, nothing duplicated, nothing oversold",
    ]


# ── the documents


def test_every_check_is_explained() -> None:
    explained = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/operate/verify.md").read_text(), re.MULTILINE)
    assert [it for it in explained if it in CHECKS] == list(CHECKS)


def test_what_is_said_of_the_time_is_what_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "audit_time.json").read_text())["results"]
    said = (ROOT / "docs/operate/verify.md").read_text()
    rows = re.findall(
        r"^\| ([a-z ]+) \| ([0-9.]+) s \| ([0-9.]+) s \| ([0-9.]+) s \| ([0-9,]+) MB \|$", said, re.MULTILINE
    )
    assert rows == [
        (
            it["ids"],
            *(str(it[key]) for key in ("seconds", "first_seconds", "postgres_cpu_s")),
            f"{it['temporary_mb']:,}",
        )
        for it in results
    ]
    assert all(it["orders"] == 10_000_000 for it in results)
    assert all(it["first_seconds"] <= 60 for it in results)
