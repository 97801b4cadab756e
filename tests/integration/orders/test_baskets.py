"""A basket on its way behind the door: stored, forwarded, decided, read, parked, replayed and audited as one order."""

import json
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal

import pytest

from database import event_log
from database.connection import Connection
from database.dead_letters import DeadLetter, park
from persist_worker.write import prepare, write
from pipeline.contract import topology
from pipeline.contract.order_events import encode_event
from pipeline.contract.orders import AnyOrder, Basket, decode_body, encode_order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from proof.audit_sql import audit
from proof.offenders import HALF_BASKET, STOCK, STORED_TWICE, VERDICT_DIFFERS, Offender
from tests.support.brokers.broker import plain_channel, send, take
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.data.orders import basket, body_of, new_product_id, order
from tests.support.scenes.audited import age, offenders
from tests.support.scenes.verify_command import verify
from tests.support.services.ingest import ORDERS, Ingest, ingesting
from tests.support.services.processes import service_process
from tests.support.services.workers import (
    add_product,
    assert_conserved,
    connected,
    dead_letters,
    persist_worker,
    product_consumer,
    qty_of,
    settle,
    stored_lines,
    verdicts,
)

A, B, C = (new_product_id() for _ in range(3))


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        for product_id in (A, B, C):
            await add_product(it, product_id, 10)
        yield it
        await assert_conserved(it)


@pytest.fixture
async def ingest(environment: Mapping[str, str]) -> AsyncIterator[Ingest]:
    async with ingesting(environment) as it:
        yield it


async def shown(ingest: Ingest, it: AnyOrder) -> dict[str, object]:
    answer: dict[str, object] = (await ingest.get(f"{ORDERS}/{it.id}")).json()
    return answer


def accepted(it: Basket) -> dict[str, object]:
    """The order as the answer to its request would show it."""
    answer: dict[str, object] = json.loads(encode_order(it))
    return answer


# ── along the path


async def test_p2_p3_a_basket_is_stored_forwarded_and_decided_as_one(
    environment: dict[str, str], connection: Connection
) -> None:
    orders: list[AnyOrder] = [basket((A, 1), (B, 2)), order(A, 3), basket((B, 9), (C, 1))]
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        copy = await channel.declare_queue(exclusive=True)
        await copy.bind(topology.ORDERS_EXCHANGE, topology.ORDER_CREATED)
        key = topology.ORDER_ACCEPTED
        await send(channel, topology.ORDERS_EXCHANGE, key, body_of(*orders), headers={"schema": 2, "orders": 3})
        async with persist_worker(environment) as first, product_consumer(environment) as second:
            assert await first.run_once() == 3
            assert decode_body(await take(channel, copy.name)) == orders
            assert await second.run_once() == 3
    assert await verdicts(connection) == {orders[0].id: None, orders[1].id: None, orders[2].id: Reason.OUT_OF_STOCK}
    assert [await qty_of(connection, product_id) for product_id in (A, B, C)] == [6, 8, 10]
    assert await dead_letters(connection) == []


async def test_p2_persist_worker_dies_after_its_copy_and_the_basket_is_forwarded_once_more(
    environment: dict[str, str], connection: Connection
) -> None:
    it = basket((A, 1), (B, 2))
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        key = topology.ORDER_ACCEPTED
        await send(channel, topology.ORDERS_EXCHANGE, key, body_of(it), headers={"schema": 2, "orders": 1})
    async with persist_worker(environment) as first:
        await first.die_before(first.service, "_forward")
    assert len((await stored_lines(connection))[it.id]) == 2
    async with persist_worker(environment) as successor, product_consumer(environment) as consumer:
        assert await successor.run_once() == 1
        assert await consumer.run_once() == 1
    assert await verdicts(connection) == {it.id: None}
    assert [await qty_of(connection, product_id) for product_id in (A, B)] == [9, 8]


# ── reads and events


async def test_p6_a_basket_is_shown_with_its_lines_and_their_sum(connection: Connection, ingest: Ingest) -> None:
    pending = basket((A, 1), (B, 2), price="0.10", reference="4711-a", metadata={"cart": "c"})
    await write(connection, [pending], [])
    assert await shown(ingest, pending) == {**accepted(pending), "final": False}
    await settle(connection, [pending])
    assert await shown(ingest, pending) == {**accepted(pending), "status": "PROCESSED", "final": True}


async def test_p4_a_failed_order_is_shown_with_the_line_and_what_was_left(
    connection: Connection, ingest: Ingest
) -> None:
    failed, single = basket((A, 1), (B, 11)), order(C, 12)
    await settle(connection, [failed, single])
    answer = await shown(ingest, failed)
    assert {name: answer[name] for name in ("status", "reason", "failed_line", "units_left")} == {
        "status": "FAILED",
        "reason": "out_of_stock",
        "failed_line": 1,
        "units_left": 10,
    }
    answer = await shown(ingest, single)
    assert (answer["units_left"], answer["quantity"], "failed_line" in answer) == (10, 12, False)


async def test_a_basket_is_in_the_list_of_each_of_its_products(connection: Connection, ingest: Ingest) -> None:
    first, second, other = basket((A, 1), (B, 2), at_ms=0), basket((B, 1), (A, 1), at_ms=1), order(A, at_ms=2)
    await settle(connection, [first, second, other])
    expected: dict[str, list[AnyOrder]] = {A: [other, second, first], B: [second, first], C: []}
    for product_id, them in expected.items():
        answer = (await ingest.get(f"{ORDERS}/product/{product_id}")).json()
        assert [it["id"] for it in answer] == [it.id for it in them]
    listed = (await ingest.get(f"{ORDERS}/product/{B}")).json()
    assert listed[0] == {**accepted(second), "status": "PROCESSED", "final": True}


async def test_every_filter_finds_a_basket_once_and_shows_it_whole(connection: Connection, ingest: Ingest) -> None:
    """Its reference is in the row of line 0 alone, and the product that is asked for in another."""
    it = basket((A, 1), (B, 2), reference="4711-a")
    await settle(connection, [it, order(A, at_ms=1), basket((A, 1), (C, 99), at_ms=2)])
    whole = {**accepted(it), "status": "PROCESSED", "final": True}
    for query in (f"product={B}", "reference=4711-a", f"product={B}&reference=4711-a&status=PROCESSED", f"id={it.id}"):
        assert (await ingest.get(f"{ORDERS}?{query}")).json() == [whole]
    assert len((await ingest.get(f"{ORDERS}?product={A}")).json()) == 3
    assert len((await ingest.get(ORDERS)).json()) == 3
    (failed,) = (await ingest.get(f"{ORDERS}?status=FAILED")).json()
    assert failed["failed_line"] == 1


async def test_p11_an_event_shows_the_basket_as_get_does_and_names_its_products(
    connection: Connection, ingest: Ingest
) -> None:
    parked, decided = basket((A, 1), (B, 1)), basket((B, 2), (C, 2), client="shop")
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(parked, Reason.INVALID_DATA, "")])
    await settle(connection, [decided])
    end = await event_log.number(connection)
    events = await event_log.read(connection, end.log_id, 0, end.last_offset)
    assert [(it.event.type, it.event.order.id, it.products) for it in events] == [
        ("order.parked", parked.id, []),
        ("order.processed", decided.id, [B, C]),
    ]
    assert json.loads(encode_event(events[1].event))["order"] == await shown(ingest, decided)


# ── parked, replayed, given up, sent again


@pytest.mark.parametrize("stage", [Stage.PERSIST, Stage.STOCK])
async def test_p10_a_parked_basket_is_replayed_whole(
    environment: dict[str, str], connection: Connection, stage: Stage
) -> None:
    it = basket((A, 1), (B, 2))
    if stage is Stage.STOCK:
        await write(connection, [it], [])
    await park(connection, stage, [DeadLetter.of_order(it, Reason.INVALID_DATA, "")])
    async with persist_worker(environment) as first, product_consumer(environment) as second:
        await headrace_dead(environment, "replay")
        if stage is Stage.PERSIST:
            assert await first.run_once() == 1
        assert await second.run_once() == 1
    assert await verdicts(connection) == {it.id: None}
    assert (await stored_lines(connection))[it.id] == [(A, 1), (B, 2)]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_p4_a_discarded_basket_has_a_verdict_that_agrees_with_its_rows(
    environment: dict[str, str], connection: Connection, is_stored: bool
) -> None:
    it = basket((A, 1), (B, 2))
    if is_stored:
        await write(connection, [it], [])
    stage = Stage.STOCK if is_stored else Stage.PERSIST
    await park(connection, stage, [DeadLetter.of_order(it, Reason.INVALID_DATA, "")])
    await headrace_dead(environment, "discard", "--all", "--reason", "a test")
    await settle(connection, [it])  # the basket comes once more
    rows = await connection.fetch("SELECT outcome, product_id, quantity, line_count FROM stock_ledger")
    assert [tuple(row) for row in rows] == [("FAILED", None, None, 2)]
    await age(connection)
    assert await offenders(connection) == []


async def test_a_stuck_basket_is_sent_again_whole_and_with_what_the_client_said(
    environment: dict[str, str], connection: Connection
) -> None:
    them: list[AnyOrder] = [
        basket((A, 1), (B, 2), client="shop", metadata={"a": "b"}, request_hash="00ff", at_ms=0),
        order(C, at_ms=1),
    ]
    await write(connection, them, [])
    async with service_process("product_consumer", environment):
        assert (await verify(environment, "--repair", "--lag", "0")).code == 0
    assert await verdicts(connection) == {it.id: None for it in them}


# ── the audit


@pytest.fixture
async def decided(connection: Connection) -> list[AnyOrder]:
    """Decided two minutes ago."""
    them: list[AnyOrder] = [
        basket((A, 1), (B, 1)),
        basket((A, 1), (B, 1), (C, 1)),
        basket((A, 99), (C, 1)),
        order(C, 2),
    ]
    await settle(connection, them)
    await age(connection)
    return them


async def found(connection: Connection) -> list[Offender]:
    them: list[Offender] = []
    counts = await audit(connection, 0, them.append)
    assert counts.orders == 4
    return them


async def test_p3_the_books_of_baskets_add_up_and_each_is_one_order(
    connection: Connection, decided: list[AnyOrder]
) -> None:
    assert await found(connection) == []


async def test_p2_half_a_basket_is_found_and_its_stock_does_not_add_up(
    connection: Connection, decided: list[AnyOrder]
) -> None:
    delete = "DELETE FROM orders WHERE id = $1 AND line = 1"
    await connection.execute(delete, decided[1].id)
    assert await offenders(connection) == [(HALF_BASKET, decided[1].id), (STOCK, B)]
    ((_, _, expected, lines), _) = await found(connection)
    assert (expected, lines) == ("3 lines", "lines 0, 2")
    await write_again(connection, decided[1], 1)


async def write_again(connection: Connection, it: AnyOrder, line: int) -> None:
    """Put a deleted line back, so that the books are right at the end."""
    assert isinstance(it, Basket)
    of = it.lines[line]
    await connection.execute(
        "INSERT INTO orders (id, line, line_count, product_id, quantity, unit_price, total_price, accepted_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        it.id,
        line,
        len(it.lines),
        of.product_id,
        of.quantity,
        Decimal(of.unit_price),
        Decimal(of.total_price),
        it.created_at,
    )


async def test_a_changed_line_shows_in_its_products_stock_and_that_of_a_failed_basket_nowhere(
    connection: Connection, decided: list[AnyOrder]
) -> None:
    """The verdict on a basket does not repeat its lines, so there is nothing else to compare them with."""
    more = "quantity = quantity + $2, total_price = unit_price * (quantity + $2)"
    change = f"UPDATE orders SET {more} WHERE id = $1 AND line = 1"
    await connection.execute(change, decided[2].id, 1)
    assert await offenders(connection) == []
    await connection.execute(change, decided[1].id, 1)
    assert await offenders(connection) == [(STOCK, B)]
    await connection.execute(change, decided[1].id, -1)


async def test_a_line_that_is_stored_twice_and_a_verdict_on_other_lines_are_found(
    connection: Connection, decided: list[AnyOrder]
) -> None:
    await connection.execute("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    failed = decided[2].id
    await connection.execute("INSERT INTO orders SELECT * FROM orders WHERE id = $1 AND line = 1", failed)
    await connection.execute("UPDATE stock_ledger SET line_count = 3 WHERE order_id = $1", failed)
    checks = {check for check, id_ in await offenders(connection) if id_ == failed}
    assert checks == {STORED_TWICE, HALF_BASKET, VERDICT_DIFFERS}
