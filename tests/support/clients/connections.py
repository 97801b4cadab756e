"""Connections to a server in this process, in the states that a server tells apart."""

import asyncio

from starlette.applications import Starlette

from tests.support.clients.echo import request
from tests.support.clients.raw_http import RawClient
from tests.support.time.conditions import eventually

HALF_A_HEAD = b"GET /echo HTTP/1.1\r\nHo"
HALF_A_BODY = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nxx"


async def sent_a_part(url: str, half: bytes) -> RawClient:
    """A connection that has sent a part of a request, as soon as the server has it."""
    client = await RawClient.connect(url)
    await client.send_all(half)
    await asyncio.sleep(0.01)
    return client


async def in_hand(app: Starlette, url: str) -> RawClient:
    """A connection with a request in hand, as soon as there is room for it."""
    client, before = await served(url), len(app.state.held)
    client.send(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await eventually(lambda: len(app.state.held) > before)
    return client


async def served(url: str) -> RawClient:
    """A connection that has been served, as soon as there is room for it."""

    async def answered() -> RawClient | None:
        client = await RawClient.connect(url)
        client.send(request(b"x"))
        return client if (await client.answer())[0] == 200 else None

    return await eventually(answered)


async def status_or_end(client: RawClient) -> int | None:
    """Send a request. Returns the status of its answer; None if the server closed the connection instead."""
    client.send(request(b"x"))
    try:
        return (await client.answer())[0]
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
