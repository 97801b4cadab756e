"""The receivers of docs/api/events.md work as they are written: of webhooks, and of messages from RabbitMQ."""

import json
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from aio_pika import DeliveryMode, Message
from pamqp.commands import Basic

from event_relay.signing import key_of, signed_headers
from pipeline.contract import topology
from pipeline.contract.order_events import EventType
from stack.operate.hooks.rules import new_secret
from tests.support.brokers.broker import plain_channel
from tests.support.data.samples import sample_with
from tests.support.services.processes import free_port
from tests.support.services.scripts import line_of, script
from tests.support.time.conditions import eventually

DOCUMENT = "docs/api/events.md"
SECRET, OTHER = new_secret(), new_secret()


RECEIVER, WITH_LIBRARY = sample_with(DOCUMENT, "class Receiver"), sample_with(DOCUMENT, "WebhookVerificationError")
# The page says that the second one replaces a function of the first.
_BEFORE, _CLASS, _AFTER = RECEIVER.partition("class Receiver")
VARIANTS = {"hmac": RECEIVER, "standardwebhooks": _BEFORE + WITH_LIBRARY + _CLASS + _AFTER}


def event(number: int, type_: str = EventType.PROCESSED) -> dict[str, Any]:
    order = {"id": f"0199a1b2-c3d4-8e5f-8a9b-{number:012}", "status": "PROCESSED", "final": True}
    return {"id": f"{order['id']}.1", "cursor": "AfFRDAAAAAAAAAAq", "type": type_, "sequence": 1, "order": order}


@pytest.fixture(params=sorted(VARIANTS))
async def receiver(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    port = str(free_port())
    environment = {"SECRET": SECRET, "PORT": port}
    async with (
        script(VARIANTS[request.param], environment) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):

        async def answers() -> bool:
            try:
                return (await client.get("/")).status_code == 501
            except httpx.TransportError:
                return False

        await eventually(answers, 15)
        yield process, client


async def post(client: httpx.AsyncClient, content: object) -> int:
    """Send a signed webhook. Returns the status."""
    body = json.dumps(content).encode()
    return (await client.post("/events", content=body, headers=signed([SECRET], body))).status_code


def signed(secrets: Sequence[str], body: bytes, sent_at: int | None = None) -> dict[str, str]:
    return signed_headers([key_of(it) for it in secrets], "1", int(time.time()) if sent_at is None else sent_at, body)


async def test_the_receiver_takes_what_we_sign_and_acts_on_each_event_once(
    receiver: tuple[Process, httpx.AsyncClient],
) -> None:
    process, client = receiver
    first, second = event(1), event(2, EventType.FAILED)
    assert await post(client, first) == 204
    assert await line_of(process) == f"1 {first['id']} order.processed"
    for again in (first, [first], {"id": "test.1", "type": "hook.test", "at": str(datetime.now(UTC)), "hook": "1"}):
        assert await post(client, again) == 204
    assert await post(client, [first, second]) == 204
    assert await line_of(process) == f"2 {second['id']} order.failed"


async def test_the_receiver_takes_either_secret_of_a_rotation_and_nothing_that_is_not_signed(
    receiver: tuple[Process, httpx.AsyncClient],
) -> None:
    process, client = receiver
    body = json.dumps(event(3)).encode()
    now = int(time.time())
    ours = signed([SECRET], body)
    for wrong in (
        {},
        signed([OTHER], body),
        signed([SECRET], body + b" "),
        signed([SECRET], body, now - 400),
        signed([SECRET], body, now + 400),
        ours | {"webhook-id": "2"},
        ours | {"webhook-timestamp": str(now - 1)},
        ours | {"webhook-timestamp": "soon"},
        ours | {"webhook-signature": "v1"},
        ours | {"webhook-signature": "v1,\xe4\xf6"},
        ours | {"webhook-signature": ours["webhook-signature"].replace("v1,", "v2,")},
    ):
        headers = [(name.encode(), value.encode("latin-1")) for name, value in wrong.items()]
        assert (await client.post("/", content=body, headers=headers)).status_code == 401, wrong
    answer = await client.post("/", content=body, headers=signed([OTHER, SECRET], body))
    assert answer.status_code == 204
    assert await line_of(process) == f"1 {event(3)['id']} order.processed"


async def test_the_consumer_of_rabbitmq_gets_its_types_and_acts_on_each_event_once(amqp_url: str) -> None:
    async with plain_channel(amqp_url) as channel:
        await topology.declare_events(channel)
        exchange = await channel.get_exchange(topology.EVENTS_EXCHANGE)
        async with script(sample_with(DOCUMENT, "aio_pika"), {"AMQP_URL": amqp_url}) as process:

            async def is_bound() -> bool:
                """Whether a message with nothing in it finds a queue, as event_relay asks."""
                return await sent(EventType.PROCESSED)

            async def sent(type_: EventType, *events: dict[str, Any]) -> bool:
                message = Message(json.dumps(events).encode(), delivery_mode=DeliveryMode.PERSISTENT)
                return isinstance(await exchange.publish(message, type_, mandatory=True), Basic.Ack)

            await eventually(is_bound, 15)
            assert await sent(EventType.PROCESSED, event(1), event(2))
            assert not await sent(EventType.FAILED, event(9))
            assert await sent(EventType.PROCESSED, event(2), event(1), event(3))
            told = [await line_of(process) for _ in range(3)]
    assert told == [f"{event(number)['id']} order.processed" for number in (1, 2, 3)]
