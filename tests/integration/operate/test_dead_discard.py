"""`./headrace dead discard`: a discarded order stays FAILED, and its rows say why."""

import json
from collections.abc import AsyncIterator, Mapping

import pytest

from database.connection import Connection
from database.dead_letters import DeadLetter, park
from persist_worker.write import prepare, write
from pipeline.contract import topology
from pipeline.contract.orders import SCHEMA, Order
from pipeline.contract.reasons import Reason
from pipeline.contract.stages import Stage
from product_consumer.ledger import record
from proof.audit_sql import Counts, audit
from tests.conftest import Servers
from tests.support.brokers.broker import plain_channel, send_orders
from tests.support.brokers.dead_letters import headrace_dead
from tests.support.data.orders import new_product_id, order
from tests.support.services.accounts import ONE_AT_A_TIME, accounts
from tests.support.services.ingest import ORDERS, Ingest, ingesting
from tests.support.services.workers import (
    add_product,
    assert_conserved,
    connected,
    persist_worker,
    product_consumer,
    qty_of,
    stored_orders,
    verdicts,
)

A = new_product_id()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        await add_product(it, A, 100)
        yield it


async def letters(connection: Connection) -> list[tuple[str, str | None, bool]]:
    """Reason, discard reason, and whether it has a discard time; oldest letter first."""
    rows = await connection.fetch("SELECT reason, discard_reason, discarded_at FROM dead_letters ORDER BY id")
    return [(row["reason"], row["discard_reason"], row["discarded_at"] is not None) for row in rows]


async def clean(connection: Connection) -> Counts:
    """The counts of an audit that finds nothing."""
    found: list[object] = []
    counts = await audit(connection, 0, found.append)
    assert found == []
    return counts


async def shown(ingest: Ingest, order_id: str) -> dict[str, object]:
    answer: dict[str, object] = (await ingest.get(f"{ORDERS}/{order_id}")).json()
    return {name: answer.get(name) for name in ("status", "reason", "final")}


@pytest.fixture
async def ingest(environment: Mapping[str, str]) -> AsyncIterator[Ingest]:
    async with ingesting(environment) as it:
        yield it


@pytest.mark.parametrize("stage", [Stage.PERSIST, Stage.STOCK])
async def test_p4_failed_may_change_until_the_letter_is_discarded_and_is_final_then(
    environment: dict[str, str], connection: Connection, ingest: Ingest, stage: Stage
) -> None:
    it = order(A)
    if stage is Stage.STOCK:
        await write(connection, [it], [])
    await park(connection, stage, [DeadLetter.of_order(it, Reason.INVALID_DATA, "22003")])
    assert await shown(ingest, it.id) == {"status": "FAILED", "reason": Reason.INVALID_DATA, "final": False}
    out, err = await headrace_dead(environment, "discard", "--order", it.id, "--reason", "a test order")
    assert (out, err) == (f"discarded 1 dead letters: 1 {stage} invalid_data\n", "")
    assert await shown(ingest, it.id) == {"status": "FAILED", "reason": Reason.INVALID_DATA, "final": True}
    assert await letters(connection) == [(Reason.INVALID_DATA, "a test order", True)]
    assert (await headrace_dead(environment, "replay"))[0] == "replayed 0 dead letters\n"
    counts = await clean(connection)
    assert (counts.dead_letters, counts.discarded, counts.failed) == (0, 1, 1)


@pytest.mark.parametrize("stage", [Stage.PERSIST, Stage.STOCK])
async def test_p4_what_comes_of_a_discarded_order_later_changes_nothing(
    environment: dict[str, str], connection: Connection, ingest: Ingest, stage: Stage
) -> None:
    """A redelivery, or the client's retry with the same key, after the cause of the parking was fixed."""
    it = order(A)
    if stage is Stage.STOCK:
        await write(connection, [it], [])
    await park(connection, stage, [DeadLetter.of_order(it, Reason.INVALID_DATA, "22003")])
    await headrace_dead(environment, "discard", "--all", "--reason", "a test order")
    async with persist_worker(environment) as persisting, product_consumer(environment) as deciding:
        async with plain_channel(environment["AMQP_URL"]) as channel:
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, it)
        assert await persisting.run_once() == 1
        assert await deciding.run_once() == 1
    assert list(await stored_orders(connection)) == [it.id]
    assert await shown(ingest, it.id) == {"status": "FAILED", "reason": Reason.INVALID_DATA, "final": True}
    assert (await qty_of(connection, A), await verdicts(connection)) == (100, {it.id: Reason.INVALID_DATA})
    await assert_conserved(connection)
    await clean(connection)


async def test_p10_discarded_poison_that_is_delivered_again_is_not_parked_again(
    environment: dict[str, str], connection: Connection
) -> None:
    letter = DeadLetter.of_order(order(A), Reason.INVALID_DATA, "22003")
    await park(connection, Stage.PERSIST, [letter])
    await headrace_dead(environment, "discard", "--all", "--reason", "a test order")
    assert await park(connection, Stage.PERSIST, [letter]) == []
    assert await letters(connection) == [(Reason.INVALID_DATA, "a test order", True)]


async def test_an_order_whose_input_says_too_little_is_failed_for_ever_all_the_same(
    environment: dict[str, str], connection: Connection, ingest: Ingest
) -> None:
    known, nobodys = order(A), b"not an order"
    unknown = DeadLetter(known.id, Reason.UNKNOWN_SCHEMA, "the message says schema 9", b'[{"id": 9}]', 9)
    await park(connection, Stage.PERSIST, [unknown, DeadLetter(None, Reason.UNREADABLE, "no JSON", nobodys, SCHEMA)])
    out, _ = await headrace_dead(environment, "discard", "--stage", "persist", "--reason", "an experiment", "--json")
    assert json.loads(out)["discarded"] == [
        {"stage": "persist", "reason": Reason.UNKNOWN_SCHEMA, "count": 1},
        {"stage": "persist", "reason": Reason.UNREADABLE, "count": 1},
    ]
    assert await shown(ingest, known.id) == {"status": "FAILED", "reason": Reason.UNKNOWN_SCHEMA, "final": True}
    await clean(connection)
    await decide(connection, known)
    assert await shown(ingest, known.id) == {"status": "FAILED", "reason": Reason.UNKNOWN_SCHEMA, "final": True}
    assert await qty_of(connection, A) == 100


async def decide(connection: Connection, it: Order) -> None:
    """Store the order after all, and run product_consumer."""
    await write(connection, [it], [])
    await record(connection, [it], [])


async def test_what_was_parked_under_another_orders_id_leaves_that_order_alone(
    environment: dict[str, str], connection: Connection, ingest: Ingest
) -> None:
    stored = order(A)
    await write(connection, [stored], [])
    await park(
        connection, Stage.PERSIST, [DeadLetter.of_order(order(A, id=stored.id, quantity=3), Reason.ID_CONFLICT, "")]
    )
    await headrace_dead(environment, "discard", "--all", "--reason", "nobody's")
    assert await shown(ingest, stored.id) == {"status": "PENDING", "reason": None, "final": False}
    await record(connection, [stored], [])
    assert await shown(ingest, stored.id) == {"status": "PROCESSED", "reason": None, "final": True}
    await clean(connection)


async def test_all_letters_of_an_order_go_with_the_one_that_is_discarded(
    environment: dict[str, str], connection: Connection
) -> None:
    it = order(A)
    twice = [DeadLetter.of_order(it, Reason.INVALID_DATA, ""), DeadLetter(it.id, Reason.UNREADABLE, "", b"other bytes")]
    await park(connection, Stage.PERSIST, [*twice, DeadLetter.of_order(order(A), Reason.INVALID_DATA, "")])
    (first, *_) = await connection.fetchrow("SELECT min(id) FROM dead_letters") or [0]
    out, _ = await headrace_dead(environment, "discard", str(first), "--reason", "both")
    assert out == "discarded 2 dead letters: 1 persist invalid_data, 1 persist unreadable\n"
    assert [why for _, why, _ in await letters(connection)] == ["both", "both", None]
    counts = await clean(connection)
    assert (counts.dead_letters, counts.discarded) == (1, 2)


async def test_nothing_is_discarded_without_a_word_why_or_which(
    environment: dict[str, str], connection: Connection
) -> None:
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(order(A), Reason.INVALID_DATA, "")])
    for wrong, told in (
        (["--all"], "--reason is missing or unusable"),
        (["--all", "--reason", " "], "--reason is missing or unusable"),
        (["--all", "--reason", "x" * 501], "--reason is missing or unusable"),
        (["--all", "--reason", "two\nlines"], "--reason is missing or unusable"),
        (["--reason", "x"], "nothing says which letters to discard"),
    ):
        _, err = await headrace_dead(environment, "discard", *wrong, code=1)
        assert err.startswith(f"error: {told}")
    out, _ = await headrace_dead(environment, "discard", "--all", "--reason", "x", "--dry-run")
    assert out == "would discard 1 of 1 waiting dead letters: 1 persist invalid_data\n"
    assert await letters(connection) == [(Reason.INVALID_DATA, None, False)]


async def test_what_was_discarded_is_listed_when_asked_for(environment: dict[str, str], connection: Connection) -> None:
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(order(A), Reason.INVALID_DATA, "")])
    await headrace_dead(environment, "discard", "--all", "--reason", "a test order")
    assert (await headrace_dead(environment, "list"))[0] == "0 waiting to be replayed\n"
    assert "discarded 20" in (await headrace_dead(environment, "list", "--discarded"))[0]
    (letter,) = json.loads((await headrace_dead(environment, "list", "--discarded", "--json"))[0])
    assert (letter["discard_reason"], letter["replayed_at"]) == ("a test order", None)
    assert letter["discarded_at"].endswith("+00:00")
    shown, _ = await headrace_dead(environment, "show", str(letter["id"]))
    assert "because    a test order\n" in shown


async def test_a_thousand_letters_are_discarded_and_listed_whole(
    environment: dict[str, str], connection: Connection
) -> None:
    await park(
        connection, Stage.PERSIST, [DeadLetter.of_order(order(A), Reason.INVALID_DATA, "") for _ in range(1_001)]
    )
    out, err = await headrace_dead(environment, "list", "--json")
    assert (len(json.loads(out)), err) == (1_001, "")
    out, err = await headrace_dead(environment, "list", "--json", "--limit", "7")
    assert (len(json.loads(out)), err) == (7, "showing the newest 7 of 1001; more with --limit\n")
    out, _ = await headrace_dead(environment, "list")
    assert out.endswith(
        "\n1001 waiting to be replayed: 1001 persist invalid_data\nshowing the newest 50 of 1001; more with --limit\n"
    )
    out, _ = await headrace_dead(environment, "discard", "--all", "--reason", "too many")
    assert out == "discarded 1001 dead letters: 1001 persist invalid_data\n"
    assert (await clean(connection)).failed == 1_001


async def test_p4_a_client_retries_an_order_that_was_discarded(
    environment: dict[str, str], connection: Connection, ingest: Ingest
) -> None:
    """The key gives the same id, and the id has its verdict."""
    key = {"Idempotency-Key": "the-same"}
    first = (await ingest.order(A, **key)).json()["id"]
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await (await channel.get_queue(topology.ORDERS_ACCEPTED_QUEUE, ensure=False)).purge()
    await park(connection, Stage.PERSIST, [DeadLetter(first, Reason.UNREADABLE, "damaged on its way", b"[damaged]")])
    await headrace_dead(environment, "discard", "--order", first, "--reason", "damaged")
    assert (await ingest.order(A, **key)).json()["id"] == first
    assert await shown(ingest, first) == {"status": "FAILED", "reason": Reason.UNREADABLE, "final": True}


@ONE_AT_A_TIME
async def test_the_operators_account_may_discard(
    environment: dict[str, str], connection: Connection, servers: Servers
) -> None:
    it = order(A)
    await park(connection, Stage.PERSIST, [DeadLetter.of_order(it, Reason.INVALID_DATA, "")])
    urls = (environment["DATABASE_URL"], environment["AMQP_URL"], servers.rabbitmq_api, environment["REDIS_URL"])
    async with accounts(*urls) as own:
        theirs = {**environment, "DATABASE_URL": own.databases["operator"]}
        out, _ = await headrace_dead(theirs, "discard", "--all", "--reason", "a test order")
    assert out == "discarded 1 dead letters: 1 persist invalid_data\n"
    assert await verdicts(connection) == {it.id: Reason.INVALID_DATA}
