"""The open-loop generator, without its sockets: when it sends, and what it makes of what comes back."""

import statistics
from array import array
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest

from benchmarks.generators import open_loop
from benchmarks.generators.arrivals import arrivals
from benchmarks.generators.generators import GeneratorFailed, Load, Target, Used
from benchmarks.generators.http_messages import Answer, Unreadable, answer_in, ids_in, new_key, request_of
from benchmarks.generators.open_loop import Summary

_ID = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"


def test_there_are_as_many_arrivals_as_the_rate_says_and_the_same_ones_again() -> None:
    found = arrivals(1_000, 2.5, seed=7)
    assert len(found) == 2_500
    assert found == sorted(found) == arrivals(1_000, 2.5, seed=7)
    assert 0 <= found[0] < found[-1] < 2.5
    assert found != arrivals(1_000, 2.5, seed=8)


def test_arrivals_are_independent_of_each_other() -> None:
    """Of a Poisson process: gaps vary as much as they are long, and counts as much as they are high."""
    found = arrivals(1_000, 60, seed=1)
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, abs=0.05)
    counts = [0] * 600
    for moment in found:
        counts[int(moment * 10)] += 1
    assert statistics.variance(counts) / statistics.mean(counts) == pytest.approx(1, abs=0.2)


def test_a_request_has_room_for_a_header() -> None:
    head, rest = request_of("127.0.0.1:80", "/api/v1/orders", b'{"quantity":1}')
    assert head.startswith(b"POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1:80\r\n")
    assert b"Content-Length: 14\r\n" in head
    assert (head.endswith(b"\r\n"), rest) == (True, b'\r\n{"quantity":1}')


ANSWER = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nCONTENT-LENGTH: 5\r\n\r\n{"a"}'


def test_an_answer_is_one_only_when_it_is_complete() -> None:
    assert [answer_in(ANSWER[:end]) for end in range(len(ANSWER))] == [None] * len(ANSWER)
    assert answer_in(ANSWER) == Answer(202, b'{"a"}', is_last=False)
    assert answer_in(b"HTTP/1.1 503 No\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n") == Answer(503, b"", True)


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("data", [_CHUNKED, b"SSH-2.0-x\r\n\r\n"])
def test_an_answer_without_an_end_is_no_answer(data: bytes) -> None:
    with pytest.raises(Unreadable):
        answer_in(data)


def test_all_ids_of_an_answer_are_found() -> None:
    one = b'{"id":"%s","productId":"x"}' % _ID.encode()
    assert ids_in(one) == [_ID.encode()]
    assert ids_in(b"[%s,%s]" % (one, one)) == [_ID.encode()] * 2
    assert ids_in(b"[]") == []


def test_keys_are_uuids_of_version_7() -> None:
    keys = [UUID(new_key()) for _ in range(1_000)]
    assert len(set(keys)) == 1_000
    assert {(key.version, key.variant) for key in keys} == {(7, "specified in RFC 4122")}


# ── what is made of what it leaves


def _summary(**more: object) -> Summary:
    fields: dict[str, object] = {
        "first_s": 100.0,
        "last_s": 110.0,
        "answered": 90,
        "refused": 5,
        "failed": 3,
        "unanswered": 2,
        "unsent": 4,
        "first_refusal": "503 no",
        "cpu_s": 0.004,
    }
    return Summary(**{**fields, **more})  # type: ignore[arg-type]


def test_what_was_due_and_got_no_2xx_is_an_error_and_of_unknown_outcome_if_it_was_sent() -> None:
    sent = open_loop.to_sent(_summary(), array("d", [0.002] * 89 + [0.5]), array("d", [0.0001]), ["id"] * 85, Used(1.0))
    assert (sent.errors, sent.unknown) == (5 + 2 + 4, 3 + 2)
    assert (sent.latency_ms.p50, sent.latency_ms.max, sent.late_ms.p99) == (2.0, 500.0, 0.1)
    assert (sent.seconds, sent.driving_cpu_s, sent.cores, sent.first_refusal) == (10.0, 0.004, 1, "503 no")


def test_no_answer_at_all_is_no_result() -> None:
    with pytest.raises(GeneratorFailed, match="no answer to any request; 2 sent, 4 not sent"):
        open_loop.to_sent(_summary(answered=0), array("d"), array("d"), [], Used())


def test_it_is_told_what_the_others_are_told(tmp_path: Path) -> None:
    target = Target("http://127.0.0.1:1", "/api/v1/orders", tmp_path / "bodies", keyed=True)
    told = open_loop.environment(target, Load(3, rate=250), tmp_path)
    assert (told["ORDERS_URL"], told["ORDERS_RATE"], told["ORDERS_SECONDS"], told["ORDERS_KEYED"]) == (
        "http://127.0.0.1:1/api/v1/orders",
        "250",
        "3",
        "1",
    )
