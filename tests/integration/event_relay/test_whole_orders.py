"""What a queue and a webhook are told of an order is all of it: lines, reference and metadata, whatever they hold."""

import json

from database.channels import VERDICTS
from database.connection import Connection
from persist_worker.write import write
from pipeline.contract.orders import AnyOrder, encode_order
from tests.support.data.detailed_orders import nasty_details
from tests.support.data.orders import basket, new_product_id, order
from tests.support.data.texts import nasty_reasons
from tests.support.scenes.cancelling import cancel_now, cancellation
from tests.support.scenes.events.bound_queue import bound
from tests.support.scenes.events.receiver import Receiver
from tests.support.services.relay import add_hook, decide, relaying
from tests.support.time.conditions import eventually

A, B = new_product_id(), new_product_id()


def orders() -> list[AnyOrder]:
    goods = (lambda **more: order(A, 2, **more), lambda **more: basket((A, 1), (B, 2), **more))
    return [goods[at % 2](**details) for at, details in enumerate([{}, {}, *nasty_details(60)])]


async def test_p11_an_order_is_told_as_it_was_accepted_with_its_verdict_beside_it(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    sent = orders()
    await add_hook(connection, receiver.url, batch=7)
    async with bound(environment["AMQP_URL"]) as consumer, relaying(environment):
        await decide(connection, *sent)
        await eventually(lambda: len(consumer.events) == len(receiver.events) == len(sent))
    for events in (consumer.events, receiver.events):
        told = {event["order"]["id"]: event["order"] for event in events}
        for it in sent:
            accepted = json.loads(encode_order(it))
            failed = {"status": "FAILED", "final": True, "reason": "unknown_product"}
            blamed = {"failed_line": 0} if "lines" in accepted else {}
            assert told[it.id] == accepted | failed | blamed


async def test_p11_a_hook_for_a_product_gets_the_baskets_that_contain_it(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    c = new_product_id()
    first, second, neither = basket((A, 1), (B, 1)), basket((c, 1), (B, 1)), basket((A, 1), (c, 1))
    await add_hook(connection, receiver.url, product_id=B)
    async with relaying(environment):
        await decide(connection, neither, first, second, order(B))
        await eventually(lambda: len(receiver.events) == 3)
    assert neither.id not in {event["order"]["id"] for event in receiver.events}


async def test_p11_the_reason_of_a_cancellation_is_told_as_it_was_given(
    environment: dict[str, str], connection: Connection, receiver: Receiver
) -> None:
    given = {order(A).id: reason for reason in nasty_reasons(60)}
    them = [order(A, id=it) for it in given]
    await add_hook(connection, receiver.url, batch=7)
    async with bound(environment["AMQP_URL"]) as consumer, relaying(environment):
        await write(connection, them, [])
        await cancel_now(connection, *(cancellation(it, reason=given[it.id]) for it in them))
        await connection.execute(f"NOTIFY {VERDICTS}")
        await eventually(lambda: len(consumer.events) == len(receiver.events) == len(given))
    for events in (consumer.events, receiver.events):
        assert {event["type"] for event in events} == {"order.cancelled"}
        assert {event["order"]["id"]: event["order"]["cancel_reason"] for event in events} == given
