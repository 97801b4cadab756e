"""`verify --repair` on real servers: cancellations that were forgotten are settled once, and nothing else changes."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import pytest

from database.connection import Connection
from persist_worker.write import prepare, write
from pipeline.broker.publisher import Outcome, Publisher
from pipeline.contract import topology
from pipeline.contract.cancellations import Cancellation, decode_cancellation, encode_cancellation
from pipeline.contract.orders import AnyOrder, Order, split_body
from product_consumer.ledger import record
from proof.offenders import CANCEL_WAITS
from stack.errors import HeadraceError
from stack.operate import publishing, repair
from stack.operate.verify import DECIDING_PATIENCE_S
from tests.support.brokers.broker import gets_back, plain_channel, take, unsettled
from tests.support.data.orders import basket, new_product_id, order
from tests.support.scenes.audited import audited
from tests.support.scenes.cancelling import by, cancel_now, cancellation, outcomes, request_cancel, returns_of
from tests.support.scenes.verify_command import verify
from tests.support.services.processes import service_process
from tests.support.services.workers import add_product, cancel_consumer, connected, qty_of
from tests.support.time.conditions import eventually

A, B = (new_product_id() for _ in range(2))
REQUESTED = topology.ORDERS_CANCEL_REQUESTED_QUEUE
NO_SERVER = "amqp://nobody:nothing@127.0.0.1:1/%2F"
_FORGET = """
    INSERT INTO cancellations (order_id, client, sees_all, reason, requested_at)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::boolean[], $4::text[], $5::timestamptz[])
"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        for product_id in (A, B):
            await add_product(it, product_id, 5_000)
        yield it


async def forget(connection: Connection, *cancellations: Cancellation) -> None:
    """Store them as a process did that died before it settled them."""
    rows = [(it.order_id, it.client, it.sees_all, it.reason, it.requested_at) for it in cancellations]
    await connection.execute(_FORGET, *map(list, zip(*rows, strict=True)))


async def decided(connection: Connection, *orders: AnyOrder) -> None:
    await write(connection, orders, [])
    await record(connection, orders, [])


@pytest.fixture
async def forgotten(connection: Connection) -> Order:
    """A processed order with a cancellation that nobody settles."""
    await decided(connection, it := order(A, 3, client="shop"))
    await forget(connection, cancellation(it, "shop", sees_all=False, reason='too "big"\u2028'))
    return it


async def checks(connection: Connection) -> list[str]:
    return [it.check for it in (await audited(connection, lag_s=-1))[0]]


async def sent_for(environment: Mapping[str, str], count: int) -> list[list[Cancellation]]:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        return [list(map(decode_cancellation, split_body(await take(channel, REQUESTED)))) for _ in range(count)]


# ── the command


async def test_p3_a_forgotten_cancellation_is_settled_once_however_often_it_is_sent_again(
    environment: dict[str, str], connection: Connection, forgotten: Order
) -> None:
    async with service_process("product_consumer", environment):
        both = await asyncio.gather(*(verify(environment, "--repair") for _ in range(2)))
    assert [it.code for it in both] == [0, 0], both
    assert any("1 cancellation resent" in it.out for it in both)
    assert (await outcomes(connection, forgotten), await returns_of(connection, forgotten)) == (["returned"], [(A, 3)])
    assert await qty_of(connection, A) == 5_000
    assert await checks(connection) == []
    # There is nothing to send, so no broker is needed.
    again = await verify({**environment, "AMQP_URL": NO_SERVER}, "--repair", "--json")
    assert again.code == 0, again
    report = json.loads(again.out)
    assert (report["resent"], report["resent_cancellations"]) == (0, 0)
    assert "cancellation" not in (await verify({**environment, "AMQP_URL": NO_SERVER}, "--repair")).out


async def test_each_is_settled_as_its_order_and_its_client_allow(
    environment: dict[str, str], connection: Connection, forgotten: Order
) -> None:
    """Also those that leave the order as it is: `verify` waits for them, not for a cancelled order."""
    failed, two = order(new_product_id(), client="shop"), basket((A, 2), (B, 1), client="shop")
    await decided(connection, failed, two)
    await forget(connection, by("shop", failed), by("rival", forgotten), by("ops", two, sees_all=True))
    assert await checks(connection) == [CANCEL_WAITS] * 4
    async with service_process("product_consumer", environment):
        done = await asyncio.wait_for(verify(environment, "--repair", "--json"), DECIDING_PATIENCE_S)
    report = json.loads(done.out)
    assert (report["resent_cancellations"], report["clean"], report["counts"]["cancelled"]) == (4, True, 2)
    assert await outcomes(connection, failed) == ["too_late"]
    assert sorted(map(str, await outcomes(connection, forgotten))) == ["not_yours", "returned"]
    assert await outcomes(connection, two) == ["returned"]
    assert (await qty_of(connection, A), await qty_of(connection, B)) == (5_000, 5_000)


async def test_a_cancellation_is_sent_after_the_verdict_that_the_same_repair_brought_about(
    environment: dict[str, str], connection: Connection
) -> None:
    """Its order was never forwarded. Its verdict settles the cancellation, so nothing is left to send."""
    await cancel_now(connection, cancellation(it := order(A, 3)))
    await write(connection, [it], [])
    async with service_process("product_consumer", environment):
        done = await verify(environment, "--repair", "--json")
    report = json.loads(done.out)
    assert (report["clean"], report["resent"], report["resent_cancellations"]) == (True, 1, 0)
    assert await outcomes(connection, it) == ["before_verdict"]


async def test_it_waits_for_a_product_consumer_that_is_on_its_way(
    environment: dict[str, str], connection: Connection, forgotten: Order
) -> None:
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_cancel_requested(channel)
    repairing = asyncio.create_task(verify(environment, "--repair"))
    await eventually(lambda: _is_sent(environment), 20)
    async with service_process("product_consumer", environment):
        done = await repairing
    assert done.code == 0, done
    assert await outcomes(connection, forgotten) == ["returned"]


async def _is_sent(environment: Mapping[str, str]) -> bool:
    return await unsettled(environment["AMQP_URL"], REQUESTED) == 1


# ── what is sent


async def test_what_is_sent_is_what_ingest_api_sent(
    environment: dict[str, str], connection: Connection, forgotten: Order
) -> None:
    await decided(connection, other := order(A))
    await forget(connection, asked := cancellation(other, "ops"))
    ids = await repair.resend_cancellations(connection, environment["AMQP_URL"], 0)
    assert sorted(ids) == sorted([forgotten.id, other.id])
    (message,) = await sent_for(environment, 1)
    found = {it.order_id: it for it in message}
    assert found[other.id] == asked
    assert encode_cancellation(found[other.id]) == encode_cancellation(asked)
    assert (found[forgotten.id].client, found[forgotten.id].reason) == ("shop", 'too "big"\u2028')


async def test_p2_a_thousand_go_in_messages_of_bounded_size_and_sent_twice_each_gives_its_stock_back_once(
    environment: dict[str, str], connection: Connection
) -> None:
    orders = [order(A) for _ in range(1_100)]
    await decided(connection, *orders)
    await forget(connection, *map(cancellation, orders))
    assert await qty_of(connection, A) == 3_900
    for _ in range(2):  # no consumer settles them meanwhile
        assert len(await repair.resend_cancellations(connection, environment["AMQP_URL"], 0)) == 1_100
    messages = await sent_for(environment, 6)
    assert sorted(map(len, messages)) == [100, 100, 500, 500, 500, 500]
    await request_cancel(environment, *messages)
    async with cancel_consumer(environment) as worker:
        while await unsettled(environment["AMQP_URL"], REQUESTED) or worker.consumer._buffer:
            await worker.run_once()
    assert await qty_of(connection, A) == 5_000
    assert await connection.fetchval("SELECT count(*) FROM cancellations WHERE outcome = 'returned'") == 1_100
    assert await checks(connection) == []


async def test_nothing_but_what_waits_for_too_long_is_sent(connection: Connection, forgotten: Order) -> None:
    """Neither a cancellation that waits for its order, nor one that is settled, nor one within the lag."""
    assert await repair.resend_cancellations(connection, NO_SERVER, 60) == []
    await cancel_now(connection, cancellation(forgotten, "ops"), cancellation(order(B)))
    await write(connection, [parked := order(B)], [])
    await forget(connection, cancellation(parked))
    await connection.execute("UPDATE cancellations SET stored_at = stored_at - interval '1 hour'")
    assert await repair.resend_cancellations(connection, NO_SERVER, 0) == []


# ── when it cannot be sent


async def test_a_backlog_of_cancellations_is_not_doubled(
    environment: dict[str, str], connection: Connection, forgotten: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "BACKLOG_MESSAGES", 2)
    await request_cancel(environment, *([cancellation(order(A))] for _ in range(3)))
    with pytest.raises(HeadraceError, match=r"3 messages wait in orders\.cancel_requested") as raised:
        await repair.resend_cancellations(connection, environment["AMQP_URL"], 0)
    assert "cancellations that wait may be among these messages" in raised.value.cause
    await gets_back(environment["AMQP_URL"], REQUESTED, 3)


async def test_a_broker_that_is_away_is_said_to_be(
    connection: Connection, forgotten: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CONNECT_PATIENCE_S", 0.3)
    with pytest.raises(HeadraceError, match="the broker cannot be used"):
        await repair.resend_cancellations(connection, NO_SERVER, 0)
    assert await outcomes(connection, forgotten) == [None]


@pytest.mark.parametrize("outcome", [it for it in Outcome if it is not Outcome.CONFIRMED])
async def test_what_is_not_confirmed_is_not_said_to_be_sent(
    environment: dict[str, str],
    connection: Connection,
    forgotten: Order,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter([Outcome.CONFIRMED, outcome])

    async def publish(*_: object, **__: object) -> Outcome:
        return next(answers)

    await decided(connection, other := order(A))
    await forget(connection, cancellation(other))
    monkeypatch.setattr(repair, "MESSAGE_CANCELLATIONS", 1)
    monkeypatch.setattr(Publisher, "publish", publish)
    with pytest.raises(HeadraceError, match=r"did not confirm 1 cancellations .*; 1 were sent before") as raised:
        await repair.resend_cancellations(connection, environment["AMQP_URL"], 0)
    assert "--repair, again" in raised.value.fix
