"""Reads the event log in each way that there is, and remembers what came: pages, a stream, a queue, a webhook.

Each reader goes on where it was, whatever breaks: by its cursor, its Last-Event-ID, or what it has not acknowledged.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import httpx
from aio_pika.abc import AbstractIncomingMessage

from pipeline.contract.topology import EVENTS_EXCHANGE
from proof.events import decode_events
from tests.chaos.account.event_readers import EventReader
from tests.chaos.scene.commits import Commits
from tests.support.brokers.broker import plain_channel

EVENTS = "/api/v1/events"
QUEUE = "chaos.events"
_PAGE, _WAIT_S = 1_000, 5
# Until a reader that met a fault tries again.
_REST_S = 0.2
_PATIENCE_S = 12.0
# Without a message, a consumer subscribes again: it may not hear of the end of its channel.
_SILENCE_S = 1.0
# A client of ours that got another 4xx has asked for something that it should not.
_PASSING = (429,)
_BROKER_AWAY = (OSError, aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPException, RuntimeError, TimeoutError)

# Before one question asks for the commits of all their events.
_MESSAGES_AT_ONCE = 50


class Take(Protocol):
    """Remembers the events of JSON arrays."""

    async def __call__(self, *arrays: bytes) -> None: ...


class RefusedError(AssertionError):
    """GET of events refused a reader for good."""


def taking(reader: EventReader, commits: Commits) -> Take:
    async def take(*arrays: bytes) -> None:
        events = [event for array in arrays for event in decode_events(array)]
        if not events:
            return
        came_s = time.time()
        uncommitted = await commits.uncommitted(events)
        if uncommitted is not None:
            reader.looked_up += len(events)
            reader.early += uncommitted
        reader.take(events, came_s)

    return take


class SseParser:
    """Lines of a stream of server-sent events. Pure. What comes before a connection breaks off is dropped."""

    def __init__(self) -> None:
        self.last_event_id = ""
        self._fields: dict[str, str] = {}

    def feed(self, line: str) -> str | None:
        """Returns the data of a message that this line ends."""
        if line:
            name, _, value = line.partition(":")
            self._fields[name] = value.removeprefix(" ")
            return None
        fields, self._fields = self._fields, {}
        self.last_event_id = fields.get("id", self.last_event_id)
        return fields.get("data")

    def break_off(self) -> None:
        self._fields = {}


# ── I/O below


async def read_pages(url: str, take: Take) -> None:
    """Follow the log by pages, until cancelled. `url`: of ingest_api."""
    path = f"{EVENTS}?limit={_PAGE}&wait={_WAIT_S}"
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, verify=False) as client:
        while True:
            try:
                response = await client.get(path)
                if _is_good(response):
                    await take(response.content)
                    path = response.links["next"]["url"]
                    continue
            except httpx.TransportError:
                pass
            await asyncio.sleep(_REST_S)


async def read_stream(url: str, take: Take) -> None:
    """Follow the log by a stream, until cancelled. `url`: of ingest_api."""
    parser = SseParser()
    async with httpx.AsyncClient(base_url=url, timeout=_PATIENCE_S, verify=False) as client:
        while True:
            headers = {"Accept": "text/event-stream"}
            if parser.last_event_id:
                headers["Last-Event-ID"] = parser.last_event_id
            try:
                async with client.stream("GET", EVENTS, headers=headers) as response:
                    if _is_good(response):
                        await _read_messages(response, parser, take)
            except httpx.TransportError:
                pass
            parser.break_off()
            await asyncio.sleep(_REST_S)


async def _read_messages(response: httpx.Response, parser: SseParser, take: Take) -> None:
    """Take the messages of each chunk at once, so that many cost one look-up."""
    rest = ""
    async for text in response.aiter_text():
        *lines, rest = (rest + text).split("\n")
        if found := [data for line in lines if (data := parser.feed(line)) is not None]:
            await take(f"[{','.join(found)}]".encode())


def _is_good(response: httpx.Response) -> bool:
    if 400 <= response.status_code < 500 and response.status_code not in _PASSING:
        raise RefusedError(f"{response.request.url}: {response.status_code}")
    return response.status_code == 200


async def trickle(url: str, read: Callable[[bytes], None]) -> None:
    """Read a stream one byte a second, until cancelled, and ask for it again when it ends."""
    parts = urlsplit(url)
    request = f"GET {EVENTS} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    while True:
        with socket.socket() as plain:
            plain.setblocking(False)
            # As little as the system allows, so that what it does not read waits in ingest_api.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            try:
                await loop.sock_connect(plain, (parts.hostname, parts.port))
                await loop.sock_sendall(plain, request)
                while byte := await loop.sock_recv(plain, 1):
                    read(byte)
                    await asyncio.sleep(1)  # a pace, and nothing that anybody waits for
            except OSError:
                pass
        await asyncio.sleep(_REST_S)


async def bind_queue(amqp_url: str) -> None:
    """A durable queue that gets every event from now on."""
    async with plain_channel(amqp_url) as channel:
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.bind(EVENTS_EXCHANGE, "#")


async def consume(amqp_url: str, take: Take) -> None:
    """Take the messages of the queue and acknowledge them, until cancelled.

    Several at once: event_relay sends 25 messages a second, and a busy machine answers fewer questions of ours.
    """
    while True:
        arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        try:
            async with plain_channel(amqp_url) as channel:
                await channel.set_qos(_MESSAGES_AT_ONCE)
                queue = await channel.get_queue(QUEUE, ensure=False)
                await queue.consume(arrived.put)
                while True:
                    messages = [await asyncio.wait_for(arrived.get(), _SILENCE_S)]
                    while not arrived.empty():
                        messages.append(arrived.get_nowait())
                    await take(*(it.body for it in messages))
                    await messages[-1].ack(multiple=True)
        except _BROKER_AWAY:
            pass
        await asyncio.sleep(_REST_S)
