"""Failpoints are where they say, whatever is renamed; a wrong one is told; and no service knows of them."""

import asyncio
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pamqp.frame
import pytest
from pamqp.base import Frame
from pamqp.commands import Basic

from pipeline.contract import topology
from pipeline.process.coroutines import run_without_waiting
from tests.chaos.faults import clock, failpoints, wire
from tests.chaos.faults.failing import put
from tests.chaos.faults.failpoints import FAILPOINTS, Action, Failpoint, FailpointError, Trigger, parse

ROOT = Path(__file__).parents[3]
SERVICES = ("ingest_api", "persist_worker", "product_consumer", "product_api", "event_relay")


# ── what the environment says


def test_a_failpoint_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(FailpointError) as error:
        parse("persist.after_comit:kill")
    assert "'persist.after_comit'" in str(error.value)
    for failpoint in FAILPOINTS:
        assert failpoint.name in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("persist.mid_copy", "persist.mid_copy does kill, stop, hang, cut; not ''"),
        ("persist.mid_copy:explode", "persist.mid_copy does kill, stop, hang, cut; not 'explode'"),
        ("stock.after_bust_before_ack:cut", "stock.after_bust_before_ack does kill, stop, hang; not 'cut'"),
        ("persist.mid_copy:kill:0", "persist.mid_copy:kill happens at the 1st time or at a later one; not at '0'"),
        (
            "persist.mid_copy:kill:soon",
            "persist.mid_copy:kill happens at the 1st time or at a later one; not at 'soon'",
        ),
    ],
)
def test_what_a_failpoint_cannot_do_is_told(text: str, expected: str) -> None:
    with pytest.raises(FailpointError) as error:
        parse(text)
    assert str(error.value) == expected


def test_a_failpoint_of_another_service_is_told() -> None:
    environment = {failpoints.VARIABLE: "persist.mid_copy:kill"}
    with pytest.raises(FailpointError, match=r"persist\.mid_copy is in persist_worker, not in ingest_api"):
        failpoints.arm("ingest_api", environment, put)


@pytest.mark.parametrize("nth", [1, 3])
def test_it_happens_once_at_the_time_that_is_named(nth: int, tmp_path: Path) -> None:
    once = tmp_path / "once"
    _, trigger = parse(f"persist.mid_copy:kill:{nth}", str(once))
    assert trigger == Trigger(Action.KILL, nth, once)
    assert [trigger.is_due() for _ in range(5)] == [it == nth for it in range(1, 6)]
    assert once.exists()


def test_what_has_happened_happens_to_no_later_process(tmp_path: Path) -> None:
    once = tmp_path / "once"
    environment = {failpoints.VARIABLE: "persist.mid_copy:kill", failpoints.ONCE_VARIABLE: str(once)}
    armed: list[str] = []
    once.touch()
    failpoints.arm("persist_worker", environment, lambda _owner, name, _value: armed.append(name))
    assert armed == []
    once.unlink()
    failpoints.arm("persist_worker", environment, lambda _owner, name, _value: armed.append(name))
    assert armed == ["connection_made"]


# ── where they are


@pytest.mark.parametrize("failpoint", FAILPOINTS, ids=lambda it: it.name)
def test_what_a_failpoint_wraps_is_there(failpoint: Failpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """monkeypatch raises for what is not; and a step is asked before it is taken."""
    patched: dict[str, Any] = {}

    def patch(owner: Any, name: str, value: Any) -> None:
        monkeypatch.setattr(owner, name, value)
        patched[name] = value

    trigger = Trigger(Action.HANG, nth=10)
    failpoint.arm(trigger, patch)
    (wrapped,) = patched.values()
    if not failpoint.on_wire:
        with pytest.raises(
            (AttributeError, TypeError)
        ):  # it goes on into the step itself, which has nothing to work on
            run_without_waiting(wrapped(None, None))
        assert trigger.hits == 1


def test_what_has_moved_is_an_error() -> None:
    with pytest.raises(AttributeError):
        put(topology, "nothing_of_this_name", None)


def test_no_service_knows_of_failpoints() -> None:
    packages = (*SERVICES, "pipeline", "web", "database", "migrations", "proof", "stack")
    sources = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert len(sources) > 80
    assert [path for path in sources if "failpoint" in path.read_text().lower()] == []


# ── moments on a wire


def postgres(kind: bytes, text: bytes) -> bytes:
    return kind + (len(text) + 4).to_bytes(4, "big") + text


QUERY, COPY_DATA, COPY_DONE = b"Q", b"d", postgres(b"c", b"")


def test_the_middle_of_a_copy_is_in_its_rows() -> None:
    rows = postgres(COPY_DATA, b"x" * 995)
    assert wire.half_a_copy(rows) == 500
    for other in (postgres(QUERY, b'COPY "orders" FROM STDIN\0'), COPY_DONE):
        assert wire.half_a_copy(other) is None


def test_a_copy_by_itself_commits_at_its_end() -> None:
    moment = wire.CommitSent()
    sent = [postgres(QUERY, b'COPY "orders" FROM STDIN\0'), postgres(COPY_DATA, b"row\n"), COPY_DONE]
    assert [moment(it) for it in sent] == [None, None, len(COPY_DONE)]


def test_a_copy_in_a_transaction_commits_with_it() -> None:
    moment = wire.CommitSent()
    statements = (b"BEGIN;\0", b"SAVEPOINT s;\0", b'COPY "x" FROM STDIN\0', b"ROLLBACK TO s;\0", b"COMMIT;\0")
    begin, savepoint, copy, back, commit = [postgres(QUERY, it) for it in statements]
    for sent in (begin, savepoint, copy, COPY_DONE, back, copy, COPY_DONE):
        assert moment(sent) is None
    assert moment(commit) == len(commit)
    assert [moment(copy), moment(COPY_DONE)] == [None, len(COPY_DONE)]


def frame(method: Frame) -> bytes:
    return pamqp.frame.marshal(method, 1)


def test_an_order_is_published_by_the_frame_that_says_so() -> None:
    message = frame(Basic.Publish(exchange=topology.ORDERS_EXCHANGE, routing_key=topology.ORDER_ACCEPTED)) + b"[]"
    assert wire.order_published(message) == len(message)
    assert wire.order_published(frame(Basic.Ack(1))) is None
    event = frame(Basic.Publish(exchange=topology.PRODUCTS_EXCHANGE, routing_key=topology.PRODUCT_SOLD_OUT))
    assert wire.order_published(event) is None
    assert wire.order_published(b"*1\r\n$4\r\nPING\r\n") is None


# ── a clock that steps


def test_every_clock_that_ingest_api_asks_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest_api import requests

    stepping = clock.Clock()
    clock.ask(stepping, monkeypatch.setattr)

    def asked() -> list[float]:
        return [time.time(), time.time_ns() / 1e9, vars(requests)["datetime"].now(UTC).timestamp()]

    before, stepping.step_s = asked(), -3600
    assert [then - now for then, now in zip(before, asked(), strict=True)] == pytest.approx([3600] * 3, abs=10)
    assert type(vars(requests)["datetime"].now(UTC)) is datetime, "what msgspec encodes"


def test_a_clock_steps_at_its_signal_and_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    clock.arm({}, monkeypatch.setattr)
    assert handlers == {}
    clock.arm({clock.VARIABLE: "-3600"}, monkeypatch.setattr)
    before = time.time()
    handlers[clock.SIGNAL](clock.SIGNAL, None)
    assert before - time.time() == pytest.approx(3600, abs=10)


def test_hanging_holds_up_its_own_step_alone() -> None:
    async def hang() -> bool:
        hanging = asyncio.create_task(Trigger(Action.HANG).pull())
        await asyncio.sleep(0)
        is_hanging = not hanging.done()
        hanging.cancel()
        return is_hanging

    assert asyncio.run(hang())
