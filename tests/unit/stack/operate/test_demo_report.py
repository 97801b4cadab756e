"""What the demo says about a run, in words and in figures."""

import html
import inspect
import io
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from proof.accounting import Account, Stock, Verdicts, sort_answers
from proof.events import EventAccount
from proof.load_result import LoadResult, Request
from proof.orders import Order
from stack.commands.demo import demo
from stack.errors import HeadraceError
from stack.home.directory import ROOT
from stack.operate.demo.demo import OTHER_FILES, allow_open_files
from stack.operate.demo.picture import picture
from stack.operate.demo.report import Run, counted, figures, print_report, verdict, wrapped

ID = "01940000-0000-8000-8000-000000000000"
AWAY = b'{"type":"/docs/problems/broker-unavailable","detail":"The order was not accepted: the broker is away."}'


def answered(*answers: tuple[int, str]) -> LoadResult[Order]:
    """Each with its status, and its id or the problem's name."""
    load: LoadResult[Order] = LoadResult(open_at_once=1, ended_s=1.0)
    for status, kept in answers:
        load.requests.append(Request(b"", Order("apple", 1)))
        load.statuses.append(status)
        load.kept.append(kept.encode())
        load.sent_s.append(0.0)
        load.took_s.append(0.1)
    return load


_ALL_READ = EventAccount(missing=0, duplicated=0, out_of_order=0, p50_ms=3.0, p99_ms=9.0)


def run(
    load: LoadResult[Order],
    *,
    planned: int = 1,
    lines: int = 1,
    half: tuple[str, ...] = (),
    oversold: tuple[Stock, ...] = (),
    events: EventAccount = _ALL_READ,
) -> Run:
    sent = sort_answers(load)
    account = Account(
        stored=len(sent.accepted),
        processed=len(sent.accepted),
        failed={},
        lost={},
        unreadable=0,
        duplicated=0,
        oversold=oversold,
        half=half,
        unknown_stored=0,
        verdicts=Verdicts(None, None, None),
    )
    return Run(
        planned=planned,
        lines=lines,
        clients=1,
        products=1,
        scarce=1,
        seed=1,
        interrupted=False,
        load=load,
        sent=sent,
        account=account,
        events=events,
        drained_s=1.5,
        clock_offset_s=0.0,
    )


def report(of: Run) -> list[str]:
    """As it is piped."""
    file = io.StringIO()
    print_report(of, Console(file=file, width=240, highlight=False))
    return file.getvalue().splitlines()


def test_the_readme_quotes_the_verdict_of_a_good_run() -> None:
    orders = inspect.signature(demo).parameters["orders"].default
    _, _, result = verdict(run(answered((202, ID)))).partition(": ")
    assert f"![{counted(orders, 'order')}: {result}](docs/images/demo.svg)" in (ROOT / "README.md").read_text()


def test_one_is_not_many() -> None:
    lines = report(run(answered((202, ID))))
    assert lines[0] == "1 order: nothing lost, nothing duplicated, nothing oversold."
    assert any("1 connection, 1 product, seed 1" in line for line in lines)
    unknown = " ".join(report(run(answered((0, "")))))
    assert "1 request got no answer" in unknown
    assert verdict(run(answered((202, ID)), oversold=(Stock("p", -1, 0, 0, 0),))).endswith("1 product OVERSOLD.")
    assert [counted(n, "order") for n in (0, 1, 2000)] == ["0 orders", "1 order", "2,000 orders"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (EventAccount(1, 0, 0, None, None), ", 1 event MISSING."),
        (EventAccount(0, 2, 0, None, None), ", 2 events REPEATED."),
        (EventAccount(0, 0, 3, None, None), ", 3 events OUT OF ORDER."),
    ],
)
def test_p11_an_event_that_is_missing_repeated_or_out_of_order_fails_the_demo(wrong: EventAccount, said: str) -> None:
    bad = run(answered((202, ID)), events=wrong)
    assert not bad.is_good
    assert verdict(bad).endswith(said)


def test_prose_is_wrapped_at_words_and_lines_end_where_their_text_does() -> None:
    load = answered((202, ID), (0, ""), (503, "outcome-unknown"))
    load.samples[503] = b'{"detail":"' + b"word " * 50 + b'"}'
    lines = report(run(load, planned=3))
    assert [line for line in lines if line != line.rstrip()] == []
    remarks = lines[lines.index("", 2) :]
    assert len(remarks) > 5
    assert max(map(len, remarks)) <= 80


def test_what_is_wrapped_keeps_its_words_and_its_indent() -> None:
    assert wrapped(f"  lost: {ID}: no verdict", 20) == ["  lost:", f"  {ID}:", "  no verdict"]
    assert wrapped("", 80) == [""]


def test_a_503_that_says_so_is_refused_under_its_name() -> None:
    load = answered((503, "broker-unavailable"), (503, "overloaded"), (409, "out-of-stock"), (429, ""))
    found = figures(run(load, planned=4))
    assert (found["refused"], found["unknown"]) == (4, 0)
    assert found["refused_by_problem"] == {"429": 1, "broker-unavailable": 1, "out-of-stock": 1, "overloaded": 1}


def test_what_is_unknown_has_its_name_or_its_status() -> None:
    found = figures(run(answered((503, "outcome-unknown"), (503, ""), (0, ""), (200, ID))))
    assert found["unknown"] == 4
    assert found["unknown_by_problem"] == {"0": 1, "200": 1, "503": 1, "outcome-unknown": 1}


def test_nothing_decided_has_no_drain() -> None:
    of = run(answered((409, "out-of-stock")))
    assert figures(of)["drain_s"] is None
    assert any(line.split()[:2] == ["drain", "-"] for line in report(of))
    assert figures(run(answered((202, ID))))["drain_s"] == 0.5


def test_a_stop_for_want_of_acceptances_says_why_and_is_not_good() -> None:
    load = answered((202, ID), (503, "broker-unavailable"))
    load.without_acceptance_s, load.last_refusal = 10.0, AWAY
    of = run(load, planned=20_000)
    assert not of.is_good
    text = " ".join(" ".join(report(of)).split())
    assert "Stopped after 2 of 20,000 orders" in text
    assert "no order was accepted for 10 s. the last refusal said: The order was not accepted: the broker is" in text


def test_connections_that_were_not_there_are_not_claimed() -> None:
    load = answered((202, ID))
    load.open_at_once = 0
    assert any("0 of 1 connection open at once" in line for line in report(run(load)))


def test_a_stack_that_says_nothing_is_quoted_with_nothing() -> None:
    load = answered((0, ""))
    load.without_acceptance_s = 10.0
    assert "  the last refusal said: nothing" in report(run(load, planned=2))


def test_lines_are_counted_beside_orders_and_orders_of_one_line_do_not_mention_them() -> None:
    load = answered((202, ID), (409, "out-of-stock"))
    of = run(load, planned=2, lines=3)
    said, found = report(of), figures(of)
    assert verdict(of) == "2 orders of 3 lines: nothing lost, nothing duplicated, nothing oversold, nothing in part."
    assert [line.split()[:2] for line in said if line.split()[:1] in (["lines"], ["lines/s"])] == [
        ["lines", "6"],
        ["lines/s", "2"],
    ]
    assert (found["sent"], found["lines"], found["lines_per_order"]) == (2, 6, 3)
    assert found["lines_per_s"] == pytest.approx(3 * found["orders_per_s"], abs=0.2)
    assert "line" not in " ".join(report(run(load, planned=2)))


def test_an_order_that_is_stored_in_part_fails_the_demo() -> None:
    bad = run(answered((202, ID)), lines=3, half=(ID,))
    assert not bad.is_good
    assert verdict(bad).endswith(", 1 order STORED IN PART.")
    assert f"  stored in part: {ID}" in report(bad)
    assert figures(bad)["half_baskets"] == 1


# ── files


@contextmanager
def file_limit(soft: int) -> Iterator[int]:
    """Lower, for the length of the block. The hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_file_limit_is_raised_for_the_clients() -> None:
    with file_limit(256):
        allow_open_files(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 256
        allow_open_files(1000)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1000 + OTHER_FILES


def test_more_clients_than_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(HeadraceError, match="1,000 clients need 1,064 open files, and the system allows 1,024"):
        allow_open_files(1000)


def test_a_picture_shows_the_command_and_the_whole_report_and_loads_nothing() -> None:
    drawn = picture(run(answered((202, ID))))
    shown = html.unescape("".join(re.findall("<text [^>]*>([^<]*)</text>", drawn))).replace("\xa0", " ")
    assert "$ ./headrace demo" in shown
    assert "1 order: nothing lost, nothing duplicated, nothing oversold." in shown
    assert "first request to last verdict" in shown
    assert "font-face" not in drawn
    assert "url(h" not in drawn
