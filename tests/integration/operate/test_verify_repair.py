"""`verify --repair` on real servers: orders without a verdict are decided once, and nothing else changes."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.orders import Order, encode_order, split_body
from proof.audit_sql import audit
from proof.offenders import NO_VERDICT
from stack.errors import HeadraceError
from stack.operate import publishing
from stack.operate import repair as resend
from tests.support.brokers.broker import gets_back, plain_channel, send_orders, take, unsettled
from tests.support.data.orders import new_product_id, order
from tests.support.scenes.verify_command import verify
from tests.support.services.processes import service_process
from tests.support.services.workers import (
    add_product,
    assert_conserved,
    connected,
    park,
    product_consumer,
    qty_of,
    settle,
    verdicts,
)
from tests.support.time.conditions import eventually

A = new_product_id()
CREATED = topology.ORDERS_CREATED_QUEUE
NO_SERVER = "amqp://nobody:nothing@127.0.0.1:1/%2F"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        await add_product(it, A, 10)
        yield it


@pytest.fixture
async def stuck(connection: Connection) -> list[Order]:
    """Stored orders that were never forwarded: seven of ten units in three orders, then four, which do not fit."""
    quantities = (2, 4, 1, 4)
    them = [order(A, quantity, at_ms=at, request_hash="00ff") for at, quantity in enumerate(quantities)]
    await write(connection, them, [])
    return them


async def found(connection: Connection) -> set[tuple[str, str]]:
    offenders: set[tuple[str, str]] = set()
    await audit(connection, 0, lambda it: offenders.add((it.check, it.id)))
    return offenders


# ── the command


async def test_a_stuck_order_is_decided_once_however_often_it_is_sent_again(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    async with service_process("product_consumer", environment):
        both = await asyncio.gather(*(verify(environment, "--repair") for _ in range(2)))
    assert [it.code for it in both] == [0, 0], both
    assert any("4 orders resent" in it.out for it in both)
    outcomes = {it.id: None for it in stuck[:3]} | {stuck[3].id: "out_of_stock"}
    assert await verdicts(connection) == outcomes
    assert await qty_of(connection, A) == 3
    await assert_conserved(connection)
    # There is nothing to send, so no broker is needed.
    again = await verify({**environment, "AMQP_URL": NO_SERVER}, "--repair", "--json")
    assert (again.code, json.loads(again.out)["resent"]) == (0, 0)


async def test_a_stuck_order_with_a_letter_of_the_first_worker_is_waited_for_too(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    """Such a letter is no verdict of a stored order. Once, `verify` did not wait for it, and exited 1."""
    await settle(connection, stuck[1:])
    await park(connection, stuck[0], stage="persist", reason="id_conflict")
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_created(channel)
    repairing = asyncio.create_task(verify(environment, "--repair"))
    await eventually(lambda: _is_sent(environment), 20)
    async with service_process("product_consumer", environment):
        done = await repairing
    assert done.code == 0, done
    assert stuck[0].id in await verdicts(connection)


async def _is_sent(environment: Mapping[str, str]) -> bool:
    return await unsettled(environment["AMQP_URL"], CREATED) == 1


# ── what is sent


async def test_what_is_sent_is_what_persist_worker_sent(
    environment: dict[str, str], connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resend, "MESSAGE_LINES", 2)
    them = [
        order(A, 3, price="0.10", at_ms=1, request_hash="00ff", client="shop"),
        order(A, at_ms=2),
        order(A, at_ms=3),
    ]
    await write(connection, them, [])
    for _ in range(2):  # no worker decides them meanwhile
        assert set(await resend.resend(connection, environment["AMQP_URL"], 0)) == {it.id for it in them}
    async with plain_channel(environment["AMQP_URL"]) as channel:
        bodies = [await take(channel, CREATED) for _ in range(4)]
    assert bodies[:2] == bodies[2:]
    assert sorted(it for body in bodies[:2] for it in split_body(body)) == sorted(map(encode_order, them))


async def test_p2_what_was_sent_twice_is_decided_once(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    for _ in range(2):
        assert len(await resend.resend(connection, environment["AMQP_URL"], 0)) == 4
    async with product_consumer(environment) as worker:
        for _ in range(8):
            if await unsettled(environment["AMQP_URL"], CREATED) or worker.consumer._buffer:
                await worker.run_once()
    assert len(await verdicts(connection)) == 4
    assert await qty_of(connection, A) == 3
    await assert_conserved(connection)


async def test_nothing_but_what_has_no_verdict_is_sent(connection: Connection, stuck: list[Order]) -> None:
    """Orders with every other fault are not sent, and no broker is asked."""
    differs, parked_too, failed, orphan = stuck
    await settle(connection, [differs, parked_too, orphan])
    await park(connection, parked_too)
    await park(connection, failed, stage="stock")
    await connection.execute("UPDATE stock_ledger SET quantity = 9 WHERE order_id = $1", differs.id)
    await connection.execute("DELETE FROM orders WHERE id = $1", orphan.id)
    before = await found(connection)
    assert {check for check, _ in before} >= {"verdict_differs", "two_verdicts", "verdict_without_order", "stock"}
    assert await resend.resend(connection, NO_SERVER, 0) == []
    assert await found(connection) == before


async def test_an_order_younger_than_the_lag_is_not_sent(connection: Connection, stuck: list[Order]) -> None:
    assert await resend.resend(connection, NO_SERVER, 60) == []


async def test_what_is_sent_is_what_the_audit_calls_late(
    environment: dict[str, str], connection: Connection, stuck: list[Order]
) -> None:
    await settle(connection, [stuck[0]])
    await park(connection, stuck[1], stage="persist")
    await park(connection, stuck[2], stage="stock")
    await park(connection, stuck[3], stage="stock", replayed=True)
    late = {id_ for check, id_ in await found(connection) if check == NO_VERDICT}
    assert late == {stuck[1].id, stuck[3].id}
    assert set(await resend.resend(connection, environment["AMQP_URL"], 0)) == late


# ── when it cannot be sent


async def test_a_backlog_is_not_doubled(
    environment: dict[str, str],
    connection: Connection,
    stuck: list[Order],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It prints only that, and no traceback with the broker's password."""
    monkeypatch.setattr(resend, "BACKLOG_MESSAGES", 2)
    url = environment["AMQP_URL"]
    async with plain_channel(url) as channel:
        await topology.declare_created(channel)
        for it in stuck[:3]:
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, it)
    with pytest.raises(HeadraceError, match=r"3 messages wait in orders\.created"):
        await resend.resend(connection, url, 0)
    assert capsys.readouterr() == ("", "")
    await gets_back(url, CREATED, 3)


async def test_a_broker_that_is_away_is_said_to_be(
    connection: Connection, stuck: list[Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CONNECT_PATIENCE_S", 0.3)
    with pytest.raises(HeadraceError, match="the broker cannot be used") as raised:
        await resend.resend(connection, NO_SERVER, 0)
    assert "RabbitMQ: " in raised.value.cause


@pytest.mark.parametrize("outcome", [it for it in Outcome if it is not Outcome.CONFIRMED])
async def test_what_is_not_confirmed_is_not_said_to_be_sent(
    environment: dict[str, str],
    connection: Connection,
    stuck: list[Order],
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([Outcome.CONFIRMED, outcome])

    async def publish(*_: object, **__: object) -> Outcome:
        return next(answers)

    monkeypatch.setattr(resend, "MESSAGE_LINES", 3)
    monkeypatch.setattr(Publisher, "publish", publish)
    with pytest.raises(HeadraceError, match=r"did not confirm 1 orders .*; 3 were sent before") as raised:
        await resend.resend(connection, environment["AMQP_URL"], 0)
    assert "--repair, again" in raised.value.fix
