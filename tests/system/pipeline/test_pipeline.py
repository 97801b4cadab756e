"""Orders through all four services on real servers: what a client sees, and what is in the database afterwards."""

import asyncio
import json
import shlex
import shutil
import signal
import subprocess
from collections import Counter
from typing import Any

import httpx
import pytest

from pipeline.contract import topology
from tests.support.brokers.broker import plain_channel, send_orders, take
from tests.support.clients.load import loading
from tests.support.data.orders import order
from tests.support.data.products import Audit
from tests.support.services.deployment import Deployment
from tests.support.services.ingest import ORDERS
from tests.support.time.conditions import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASTED = """
curl -s localhost:3000/products -H 'Content-Type: application/json' -d '{"name":"Laptop Demo","price":1500,"qty":50}'
curl -s localhost:3000/products/ID
curl -s localhost:8080/api/v1/orders -H 'Content-Type: application/json' -d '{"productId":"ID","quantity":2}'
curl -s localhost:8080/api/v1/orders/product/ID
"""
"""Requests to the replaced service, as its users wrote them down."""


async def test_the_pasted_requests_of_the_old_service_work_unchanged(deployment: Deployment) -> None:
    create, read, place, listing = PASTED.strip().splitlines()
    product = await paste(deployment, create)
    assert product.keys() == {"id", "name", "price", "qty", "createdAt"}
    assert (product["name"], product["price"], product["qty"]) == ("Laptop Demo", 1500, 50)
    assert await paste(deployment, read, product["id"]) == product
    placed = await paste(deployment, place, product["id"])
    expected = {"product_id": product["id"], "quantity": 2, "unit_price": 1500, "total_price": 3000}
    assert placed == {**expected, "id": placed["id"], "status": "PENDING", "created_at": placed["created_at"]}
    decided = await eventually(lambda: deployment.verdict(placed["id"]))
    assert decided == {**placed, "status": "PROCESSED", "final": True}
    assert await paste(deployment, listing, product["id"]) == [decided]
    assert await paste(deployment, read, product["id"]) == {**product, "qty": 48}


async def test_totals_and_stock_are_exact_at_their_limits(deployment: Deployment) -> None:
    """A float has 15 to 17 digits, and the largest total has 18. Every hop keeps them all, in JSON numbers."""
    for price, quantity, total in (
        ("9999999999.99", 1_000_000, b"9999999999990000.00"),
        ("9999999999.99", 999_999, b"9999989999990000.01"),
        ("0.01", 1, b"0.01"),
        ("0.00", 1_000_000, b"0.00"),
    ):
        product_id = await deployment.create_product(10**15, price)
        accepted = await deployment.order(product_id, quantity)
        expected = b'"unit_price":%b,"total_price":%b,' % (price.encode(), total)
        assert expected in accepted.content
        order_id = accepted.json()["id"]
        decided = await eventually(lambda: deployment.verdict(order_id))  # noqa: B023 - awaited in this turn
        assert decided["status"] == "PROCESSED"
        async with deployment.client("ingest_api") as client:
            for path in (f"{ORDERS}/{order_id}", f"{ORDERS}/product/{product_id}"):
                assert expected in (await client.get(path)).content
        assert (await deployment.product(product_id))["qty"] == 10**15 - quantity
        stored = await deployment.connection.fetchrow("SELECT total_price::text FROM orders WHERE id = $1", order_id)
        assert stored is not None
        assert stored["total_price"].encode() == total


async def paste(deployment: Deployment, line: str, product_id: str = "") -> Any:
    """The JSON that a pasted request prints. Only the two ports and the id are put in."""
    line = line.replace("ID", product_id) if product_id else line
    for name, port in (("product_api", 3000), ("ingest_api", 8080)):
        line = line.replace(f"localhost:{port}", deployment.url(name).removeprefix("http://"))
    return json.loads(await asyncio.to_thread(_curl, shlex.split(line)))


def _curl(command: list[str]) -> bytes:
    """Run the command. Without curl, send the same request."""
    if shutil.which("curl"):
        return subprocess.run([*command, "--noproxy", "*"], check=True, stdout=subprocess.PIPE).stdout
    url, options = f"http://{command[2]}", dict(zip(command[3::2], command[4::2], strict=True))
    headers = dict([options["-H"].split(": ")]) if "-H" in options else {}
    return httpx.request("POST" if "-d" in options else "GET", url, headers=headers, content=options.get("-d")).content


async def test_of_three_clients_who_race_for_the_last_unit_one_gets_it(deployment: Deployment) -> None:
    products = [await deployment.create_product(qty=1) for _ in range(10)]
    answers = await asyncio.gather(*(deployment.order(product_id) for product_id in products * 3))
    for number, product_id in enumerate(products):
        outcomes = Counter([await outcome(deployment, answer) for answer in answers[number :: len(products)]])
        assert outcomes["PROCESSED"] == 1
        assert outcomes["out_of_stock"] + outcomes["409"] == 2
        assert (await deployment.product(product_id))["qty"] == 0

    async def is_refused_at_the_door() -> bool:
        return (await deployment.order(products[0])).status_code == 409

    await eventually(is_refused_at_the_door)


async def outcome(deployment: Deployment, answer: httpx.Response) -> str:
    """PROCESSED, the reason for FAILED, or the status of an order that was not accepted."""
    if answer.status_code != 202:
        return str(answer.status_code)
    decided = await eventually(lambda: deployment.verdict(answer.json()["id"]))
    assert decided
    return str(decided.get("reason", decided["status"]))


async def test_a_message_that_comes_again_and_again_is_one_order(deployment: Deployment) -> None:
    """P2, within a batch and across batches."""
    product_id = await deployment.create_product(qty=10)
    wanted = order(product_id, 3)
    repetitions = 'headrace_orders_duplicate_total{stage="stock"}'
    consumer = deployment.services["product_consumer"]
    before = await consumer.metric(repetitions)
    async with plain_channel(deployment.environment["AMQP_URL"]) as channel:
        for _ in range(2):
            await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, wanted)
        await eventually(lambda: deployment.verdict(wanted.id))
        await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_ACCEPTED, wanted)
        await send_orders(channel, topology.ORDERS_EXCHANGE, topology.ORDER_CREATED, wanted)

    async def repeated() -> bool:
        return await consumer.metric(repetitions) == before + 3

    await eventually(repeated)
    assert await deployment.outcomes(product_id) == {wanted.id: "PROCESSED"}
    assert await Audit(deployment.connection).qty(product_id) == 7


async def test_a_hot_product_sells_its_stock_to_the_last_unit_and_no_further(deployment: Deployment) -> None:
    """P3: three times as many orders as there are units, all of one product."""
    stock = 600
    product_id = await deployment.create_product(stock)
    audit = Audit(deployment.connection)
    seen: list[int] = []

    async def is_answered() -> bool:
        seen.append(await audit.qty(product_id))
        assert await audit.unbalanced() == []
        return load.answered == 3 * stock

    async with loading(deployment.url("ingest_api"), [product_id], orders=3 * stock) as load:
        await eventually(is_answered, 60)
        result = await load.all()
    assert set(result.by_status()) <= {202, 409}
    assert await deployment.check_books(result, product_id) == 0
    assert min(seen) >= 0
    assert seen == sorted(seen, reverse=True)
    assert Counter((await deployment.outcomes(product_id)).values())["PROCESSED"] == stock
    assert await audit.qty(product_id) == (await deployment.product(product_id))["qty"] == 0


async def test_an_accepted_order_can_be_read_at_once_also_under_load(deployment: Deployment) -> None:
    """P6, for each of many orders, under load."""
    products = [await deployment.create_product(qty=100_000) for _ in range(4)]

    async def customer(product_id: str) -> None:
        async with deployment.client("ingest_api") as client:
            for _ in range(40):
                placed = await client.post(ORDERS, json={"productId": product_id, "quantity": 1})
                assert placed.status_code == 202
                read = await client.get(placed.headers["location"])
                assert (read.status_code, read.json()["id"]) == (200, placed.json()["id"])
                assert read.json()["status"] in ("PENDING", "PROCESSED")

    async with loading(deployment.url("ingest_api"), products, clients=16) as load:
        await asyncio.gather(*map(customer, products * 2))
        result = await load.end()
    assert set(result.by_status()) == {202}


async def test_the_price_is_that_of_the_acceptance_whatever_becomes_of_it(deployment: Deployment) -> None:
    product_id = await deployment.create_product(qty=10, price="10.25")
    worker = deployment.services["persist_worker"].process
    worker.send_signal(signal.SIGSTOP)
    try:
        placed = (await deployment.order(product_id, 3)).json()
        async with deployment.client("product_api") as client:
            assert (await client.patch(f"/products/{product_id}", json={"price": 99})).status_code == 200

        async def costs_more() -> bool:
            return bool((await deployment.order(product_id)).json()["unit_price"] == 99)

        await eventually(costs_more)
        assert (await deployment.get_order(placed["id"]))["status"] == "PENDING"
    finally:
        worker.send_signal(signal.SIGCONT)
    decided = await eventually(lambda: deployment.verdict(placed["id"]))
    assert decided == {**placed, "status": "PROCESSED", "final": True}
    assert (decided["unit_price"], decided["total_price"]) == (10.25, 30.75)


async def test_the_trace_context_and_the_id_travel_all_the_way(deployment: Deployment) -> None:
    product_id = await deployment.create_product(qty=10)
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with plain_channel(deployment.environment["AMQP_URL"]) as channel:
        tapped = await channel.declare_queue(exclusive=True)
        await tapped.bind(topology.ORDERS_EXCHANGE, "order.*")
        placed = (await deployment.order(product_id, traceparent=context)).json()
        seen: list[Any] = []
        while len(seen) < 2:  # orders of other tests may still be on their way
            seen += [it for it in json.loads(await take(channel, tapped.name)) if it["id"] == placed["id"]]
    assert seen == [{**placed, "traceparent": context}] * 2
