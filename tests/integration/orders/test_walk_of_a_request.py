"""The files that the head of an order's request walks through, from the connection to the confirm.

A reader follows an order through few files, and never has to go back to one. A file is on the walk if it makes the
head, or if a function of it is called from another file with the ASGI scope, the header list or the Head among its
arguments. What has only a value out of them, like a client's name, is not: it can be read on its own.
"""

import asyncio
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ingest_api.app import make_app
from ingest_api.settings import IngestSettings
from pipeline.contract.api_keys import new_token
from tests.support.clients.hostile import order_of
from tests.support.clients.raw_http import RawClient
from tests.support.data.api_keys import key_of, write_keys
from tests.support.services.processes import running
from tests.support.services.settings import settings_from
from tests.support.time.conditions import eventually
from web.requests.head import Head

_ROOT = Path(__file__).parents[3]
_PACKAGES = ("web", "ingest_api", "pipeline", "database")
MAX_FILES = 7


def _is_head(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("type") == "http" and "headers" in value
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], tuple) and value[0][0] == b"host"
    return isinstance(value, Head)


def _file_of(frame: FrameType | None) -> str | None:
    """The frame's file, relative to the repository; None for a library's."""
    path = Path(frame.f_code.co_filename) if frame else Path()
    if not path.is_relative_to(_ROOT):
        return None
    name = str(path.relative_to(_ROOT))
    return name if name.split("/")[0] in _PACKAGES else None


@contextmanager
def walk_of_heads() -> Iterator[list[str]]:
    """The files on the walk of each request during the block, in order. A file that comes twice was returned to."""
    walk: list[str] = []
    begun: set[FrameType] = set()

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        # A coroutine that continues after an await is also a call event, but it was entered before.
        if event != "call" or (here := _file_of(frame)) is None or frame in begun:
            return
        code = frame.f_code
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if not any(_is_head(frame.f_locals.get(name)) for name in arguments):
            return
        begun.add(frame)
        caller = _file_of(frame.f_back)
        if not walk and caller is not None:
            walk.append(caller)
        if caller != here and walk[-1:] != [here]:
            walk.append(here)

    sys.setprofile(on_event)
    try:
        yield walk
    finally:
        sys.setprofile(None)


HEADERS = {
    "plain": [],
    "traced": [b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
    "with an Idempotency-Key": [b"Idempotency-Key: KEY"],
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=list(HEADERS))
@pytest.mark.parametrize("has_keys", [False, True], ids=["open", "with API keys"])
async def test_an_accepted_order_walks_through_few_files_and_returns_to_none(
    environment: dict[str, str], laptop: str, tmp_path: Path, headers: list[bytes], has_keys: bool
) -> None:
    if has_keys:
        token = new_token()
        write_keys(tmp_path / "keys.json", key_of(token, orders_per_s=100))
        environment["API_KEYS_FILE"] = str(tmp_path / "keys.json")
        headers = [*headers, b"Authorization: Bearer %b" % token.encode()]
    order = order_of(laptop, 1, *headers)
    async with running(make_app(settings_from(IngestSettings, environment), asyncio.Event())) as url:
        walk = await eventually(lambda: _walk_of_an_accepted(url, order))
    assert walk[0] == "web/serving/connections.py"
    assert "ingest_api/intake/accept.py" in walk
    assert len(walk) <= MAX_FILES, walk
    assert len(set(walk)) == len(walk), walk


async def _walk_of_an_accepted(url: str, order: bytes) -> list[str]:
    """The walk of one request with a new key; empty if the service did not accept it, on a slow machine."""
    client = await RawClient.connect(url)
    with walk_of_heads() as walk:
        client.send(order.replace(b"KEY", secrets.token_hex(8).encode()))
        status, _, _ = await client.answer()
    client.close()
    return walk if status == 202 else []
