"""reference and metadata on real servers: whatever they hold comes back unchanged by every way that an order takes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from database.connection import Connection
from ingest_api.documents.event_operations import EVENTS
from persist_worker.write import prepare, write
from pipeline.contract import topology
from pipeline.contract.columns import selected
from pipeline.contract.order_rows import orders_of
from pipeline.contract.orders import COLUMNS, OF_BASKET, Order, decode_order, encode_order, split_body
from pipeline.contract.stages import Stage
from stack.operate.repair import resend
from tests.support.brokers.broker import plain_channel, send_orders
from tests.support.clients.event_stream import streaming
from tests.support.data.detailed_orders import details_in, nasty_details
from tests.support.data.orders import by_id, order
from tests.support.scenes.replays import ACCEPTED, CREATED, park_orders, replay_all, run_pipeline
from tests.support.services.ingest import ORDERS, Ingest, insert_product, messages_in
from tests.support.services.workers import buffered, connected, persist_worker

COUNT = 60
_STORED = f"SELECT {selected((*COLUMNS, *OF_BASKET), 'orders')} FROM orders ORDER BY orders.id, orders.line"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as it:
        await prepare(it)
        yield it


@pytest.fixture
async def product(database_url: str) -> str:
    return await insert_product(database_url, "12.50", 10_000)


def detailed(product_id: str, count: int = COUNT, **members: Any) -> list[Order]:
    return [order(product_id, **details, **members) for details in nasty_details(count)]


async def accepted(ingest: Ingest, product_id: str) -> dict[str, dict[str, Any]]:
    """Orders the nasty details, a third each one by one, as an array and as NDJSON; every other order has a line.
    Returns what each order has.
    """
    one: dict[str, Any] = {"productId": product_id, "quantity": 1}
    goods = [one, {"lines": [one]}]
    requests = [goods[at % 2] | it for at, it in enumerate(nasty_details(COUNT))]
    answers = [await ingest.client.post(ORDERS, json=it) for it in requests[0::3]]
    array = await ingest.client.post(f"{ORDERS}/bulk", json=requests[1::3])
    lines = await ingest.client.post(
        f"{ORDERS}/bulk",
        content="\n".join(json.dumps(it, ensure_ascii=False) for it in requests[2::3]).encode(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    given = requests[0::3] + requests[1::3] + requests[2::3]
    found = details_in([*(it.json() for it in answers), *array.json(), *lines.json()])
    assert list(found.values()) == list(details_in({"id": str(at), **it} for at, it in enumerate(given)).values())
    return found


# ── to the store and back


@pytest.mark.parametrize("path", ["direct", "staging", "bisect"])
async def test_every_text_is_stored_as_it_is_by_each_path(connection: Connection, path: str) -> None:
    product_id = "8c1f4f0e-3c51-4f58-9c0a-0d6f3c1f7a11"
    orders = [*detailed(product_id), order(product_id)]
    if path == "staging":
        await write(connection, orders[:1], [])
    refused = [order(product_id, 2**40, reference="4711")] if path == "bisect" else []
    assert (await write(connection, orders + refused, [])).path == path
    assert by_id(*orders_of(await connection.fetch(_STORED))) == by_id(*orders)


async def test_every_text_is_answered_listed_and_told_as_it_was_sent(
    environment: dict[str, str], ingest: Ingest, product: str
) -> None:
    sent = await accepted(ingest, product)
    await run_pipeline(environment)
    singles = [(await ingest.get(f"{ORDERS}/{it}?wait=10")).json() for it in sent]
    assert {it["status"] for it in singles} == {"PROCESSED"}
    assert details_in(singles) == sent
    assert details_in((await ingest.get(f"{ORDERS}/product/{product}?limit=100")).json()) == sent
    pages = (await ingest.get(f"{EVENTS}?limit=1000&wait=10")).json()
    assert details_in(it["order"] for it in pages) == sent
    async with streaming(ingest.client, EVENTS) as stream:
        await stream.has(COUNT)
        assert details_in(it["order"] for it in stream.events) == sent


@pytest.mark.parametrize("stage", [Stage.PERSIST, Stage.STOCK])
async def test_every_text_survives_a_dead_letter_and_its_replay(
    environment: dict[str, str], connection: Connection, ingest: Ingest, stage: Stage
) -> None:
    product_id = await insert_product(environment["DATABASE_URL"], "12.50", 10_000)
    orders = detailed(product_id)
    if stage is Stage.STOCK:
        await write(connection, orders, [])
    await park_orders(connection, stage, *orders)
    assert (await replay_all(environment)).confirmed == {stage: COUNT}
    queue = {Stage.PERSIST: ACCEPTED, Stage.STOCK: CREATED}[stage]
    assert {it.headers["schema"] for it in await messages_in(environment["AMQP_URL"], queue)} == {2}
    await run_pipeline(environment)
    answers = [(await ingest.get(f"{ORDERS}/{it.id}?wait=10")).json() for it in orders]
    assert {it["status"] for it in answers} == {"PROCESSED"}
    assert details_in(answers) == details_in(json.loads(encode_order(it)) for it in orders)


async def test_every_text_survives_verify_repair(environment: dict[str, str], connection: Connection) -> None:
    orders = detailed("8c1f4f0e-3c51-4f58-9c0a-0d6f3c1f7a11")
    await write(connection, orders, [])
    assert len(await resend(connection, environment["AMQP_URL"], 0)) == COUNT
    (message,) = await messages_in(environment["AMQP_URL"], CREATED)
    assert message.headers["schema"] == 2
    assert by_id(*map(decode_order, split_body(message.body))) == by_id(*orders)


# ── which schema a message says


async def schemas_in(environment: dict[str, str], queue: str) -> list[object]:
    return [it.headers["schema"] for it in await messages_in(environment["AMQP_URL"], queue)]


async def test_only_a_message_with_such_an_order_says_schema_2(
    environment: dict[str, str], ingest: Ingest, product: str
) -> None:
    plain = {"productId": product, "quantity": 1}
    for request in (plain, plain | {"metadata": {}}, plain | {"reference": "4711"}, plain | {"metadata": {"a": "b"}}):
        assert (await ingest.client.post(ORDERS, json=request)).status_code == 202
    for bulk in ([plain, plain], [plain, plain | {"reference": "4711"}, plain]):
        assert (await ingest.client.post(f"{ORDERS}/bulk", json=bulk)).status_code == 202
    assert await schemas_in(environment, ACCEPTED) == [1, 1, 2, 2, 1, 2]
    async with persist_worker(environment, batch_max_deliveries=1) as worker:
        for _ in range(6):
            await worker.run_once()
    assert await schemas_in(environment, CREATED) == [1, 1, 2, 2, 1, 2]


async def test_a_batch_is_forwarded_under_the_latest_schema_also_if_one_order_of_it_is_refused(
    environment: dict[str, str],
) -> None:
    product_id = "8c1f4f0e-3c51-4f58-9c0a-0d6f3c1f7a11"
    plain, with_reference, refused = order(product_id), order(product_id, reference="4711"), order(product_id, 2**40)
    async with plain_channel(environment["AMQP_URL"]) as channel:
        await topology.declare_accepted(channel)
        for it in (plain, with_reference, refused):
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, it)
    async with persist_worker(environment) as worker:
        await buffered(worker, 3)
        assert await worker.run_once() == 3
    (message,) = await messages_in(environment["AMQP_URL"], CREATED)
    assert message.headers["schema"] == 2
    assert {*map(encode_order, map(decode_order, split_body(message.body)))} == {
        encode_order(plain),
        encode_order(with_reference),
    }
