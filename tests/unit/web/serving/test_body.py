"""Bodies: up to a limit and no further, within a deadline, whatever Content-Length says."""

import asyncio
from collections.abc import Iterable

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from pipeline.process.coroutines import run_without_waiting
from tests.support.time.conditions import eventually
from web.problems.problems import Problem
from web.requests.head import Head, parse_head
from web.requests.operations import Content, Operation
from web.serving import body as web_body
from web.serving.body import read_json_body

LIMIT_BYTES = 100
JSON = b"application/json"
TAKES = ("application/json", "application/merge-patch+json")


def head(content_type: bytes | None = JSON, *more: tuple[bytes, bytes], method: str = "POST") -> Head:
    """The head of a request to an operation that takes two media types."""
    head = parse_head([*([] if content_type is None else [(b"content-type", content_type)]), *more])
    body = tuple(Content(str, {}, media_type) for media_type in TAKES)
    head.operation = Operation("change", method, "/", "public", body=body)
    return head


class Client:
    """Sends its messages one by one, then nothing more."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = list(messages)
        self.read = 0

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        if self.read == len(self._messages):
            await asyncio.Event().wait()
        self.read += 1
        return self._messages[self.read - 1]


def chunk(content: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


async def read(receive: Receive, content_type: bytes | None = JSON) -> bytes:
    return await read_json_body(head(content_type), receive, LIMIT_BYTES)


async def status_of(*messages: Message, content_type: bytes | None = JSON) -> int:
    with pytest.raises(Problem) as raised:
        await read(Client(messages).receive, content_type)
    return raised.value.status


@pytest.mark.parametrize(
    "messages",
    [
        [chunk(b"x" * LIMIT_BYTES, more=False)],
        [chunk(b"x" * 60), chunk(b"x" * 40, more=False)],
        [chunk(b"x" * LIMIT_BYTES), chunk(b"", more=False)],
        [chunk(b"x") for _ in range(LIMIT_BYTES)] + [{"type": "http.request"}],
    ],
    ids=["at once", "in two", "with an empty end", "byte by byte"],
)
async def test_a_body_up_to_the_limit_is_read_whole(messages: list[Message]) -> None:
    assert await read(Client(messages).receive) == b"x" * LIMIT_BYTES


async def test_a_body_that_is_there_already_is_read_without_waiting() -> None:
    async def receive() -> Message:
        return chunk(b"{}", more=False)

    assert run_without_waiting(read(receive)) == b"{}"


async def test_an_empty_body_is_empty() -> None:
    assert await read(Client([{"type": "http.request"}]).receive) == b""


async def test_one_byte_more_is_413_at_once_or_in_pieces() -> None:
    assert await status_of(chunk(b"x" * (LIMIT_BYTES + 1), more=False)) == 413
    assert await status_of(chunk(b"x" * LIMIT_BYTES), chunk(b"x", more=False)) == 413


async def test_a_body_without_end_is_refused_as_soon_as_it_is_too_large() -> None:
    client = Client(chunk(b"x" * 30) for _ in range(1000))
    with pytest.raises(Problem) as raised:
        await read(client.receive)
    assert (raised.value.status, client.read) == (413, 4)


async def test_a_body_that_is_announced_as_too_large_is_not_begun() -> None:
    client = Client([chunk(b"x")])
    announced = head(JSON, (b"content-length", b"%d" % (LIMIT_BYTES + 1)))
    with pytest.raises(Problem) as raised:
        await read_json_body(announced, client.receive, LIMIT_BYTES)
    assert (raised.value.status, client.read) == (413, 0)


async def test_bodies_that_do_not_end_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_body, "_MAX_UNFINISHED_BYTES", 100)
    clients = [Client([chunk(b"x" * 40)]) for _ in range(2)]
    reading = [asyncio.create_task(read(client.receive)) for client in clients]
    await eventually(lambda: web_body._UnfinishedBody.all_bytes == 80)
    surplus = Client([chunk(b"x" * 40), chunk(b"x", more=False)])
    with pytest.raises(Problem) as refused:
        await read(surplus.receive)
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    assert surplus.read == 1, "an overloaded service does not wait for the rest before it says so"
    assert await read(Client([chunk(b"x" * 90, more=False)]).receive) == b"x" * 90
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    assert web_body._UnfinishedBody.all_bytes == 0
    assert await read(Client([chunk(b"x" * 40), chunk(b"x", more=False)]).receive) == b"x" * 41


@pytest.mark.parametrize("sent", [[], [chunk(b"{")]], ids=["nothing", "a part"])
async def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch, sent: list[Message]) -> None:
    monkeypatch.setattr(web_body, "_DEADLINE_S", 0.05)
    assert await status_of(*sent) == 408


@pytest.mark.parametrize("sent", [[], [chunk(b"{")]], ids=["before the body", "in the middle"])
async def test_a_client_that_leaves_is_no_problem_of_its_own(sent: list[Message]) -> None:
    with pytest.raises(ClientDisconnect):
        await read(Client([*sent, {"type": "http.disconnect"}]).receive)


@pytest.mark.parametrize(
    "content_type",
    [
        JSON,
        b"Application/JSON",
        b"application/json;charset=utf-8",
        b"application/json ; charset=utf-8",
        b"application/merge-patch+json",
    ],
)
async def test_what_the_operation_lists_is_taken(content_type: bytes) -> None:
    assert await read(Client([chunk(b"{}", more=False)]).receive, content_type) == b"{}"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b"text/plain",
        b"application/jsonp",
        b"application/problem+json",
        b"application/json-patch+json",
        b"application/x-ndjson",
        b"application/x-www-form-urlencoded",
        b"\xff",
        b";application/json",
    ],
)
async def test_anything_else_is_415_and_is_not_read(content_type: bytes | None) -> None:
    client = Client([chunk(b"{}", more=False)])
    with pytest.raises(Problem) as raised:
        await read(client.receive, content_type)
    assert (raised.value.status, raised.value.headers) == (415, {"Accept": ", ".join(TAKES)})
    assert "Send it with Content-Type: application/json or application/merge-patch+json." in raised.value.detail
    assert client.read == 0
    raised.value.body()


async def test_a_patch_is_told_so_in_its_own_words() -> None:
    with pytest.raises(Problem) as raised:
        await read_json_body(head(b"text/plain", method="PATCH"), Client([]).receive, LIMIT_BYTES)
    assert raised.value.headers["Accept-Patch"] == ", ".join(TAKES)


@pytest.mark.parametrize("coding", [b"gzip", b"identity, gzip", b"Deflate", b"x"])
async def test_a_compressed_body_is_415_and_is_not_read(coding: bytes) -> None:
    client = Client([chunk(b"{}", more=False)])
    with pytest.raises(Problem) as raised:
        await read_json_body(head(JSON, (b"content-encoding", coding)), client.receive, LIMIT_BYTES)
    assert (raised.value.status, raised.value.headers, client.read) == (415, {"Accept-Encoding": "identity"}, 0)


@pytest.mark.parametrize("coding", [b"", b"identity", b" Identity "])
async def test_a_body_that_is_said_to_be_as_it_is_is_taken(coding: bytes) -> None:
    client = Client([chunk(b"{}", more=False)])
    assert await read_json_body(head(JSON, (b"content-encoding", coding)), client.receive, LIMIT_BYTES) == b"{}"
