"""One attempt at a webhook, on a real socket: whatever the receiver does, it costs a bounded time and few bytes."""

import asyncio
import gzip
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from event_relay import delivery
from event_relay.delivery import MOST_BODY_BYTES, WebhookClient, webhook_client
from event_relay.destinations import destination_of
from event_relay.retry import Answer
from tests.support.scenes.events.receiver import Received, Receiver, answer, receiving, saying
from tests.support.services.processes import free_port
from tests.support.time.conditions import eventually

BODY = b'{"id":"1"}'


@pytest.fixture
async def client() -> AsyncIterator[WebhookClient]:
    async with webhook_client(allow_private=True) as client:
        yield client


async def send(client: WebhookClient, url: str, timeout_s: float = 10.0, body: bytes = BODY) -> Answer:
    return await client.attempt(destination_of(url, allow_private=True), {"webhook-id": "1"}, body, timeout_s)


async def test_a_request_is_sent_as_it_is_and_its_connection_is_used_again(
    client: WebhookClient, receiver: Receiver
) -> None:
    url = receiver.url + "/a%2Fb?token=%41&x=+"
    for _ in range(3):
        assert (await send(client, url)).is_delivered
    assert {it.connection for it in receiver.requests} == {1}
    request = receiver.requests[0]
    assert (request.target, request.body) == ("/hook/a%2Fb?token=%41&x=+", BODY)
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == receiver.url.split("/")[2]
    assert request.headers["user-agent"].startswith("headrace/")
    assert "cookie" not in request.headers


@pytest.mark.parametrize("status", [200, 204, 301, 307, 404, 410, 429, 500, 503])
async def test_the_status_and_the_first_bytes_are_reported(
    client: WebhookClient, receiver: Receiver, status: int
) -> None:
    body = b"" if status == 204 else b"said"
    receiver.behave = saying(answer(status, body, retry_after="7", set_cookie="a=b", location="http://127.0.0.1:1/"))
    for _ in range(2):
        got = await send(client, receiver.url)
        assert (got.status, got.first_bytes, got.retry_after, got.error) == (status, body, "7", None)
    assert len(receiver.requests) == 2
    assert "cookie" not in receiver.requests[1].headers


async def test_of_a_gigabyte_no_more_than_the_first_bytes_are_read(client: WebhookClient, receiver: Receiver) -> None:
    receiver.behave = receiver.flood(2**30)
    began = time.monotonic()
    got = await send(client, receiver.url)
    assert got.is_delivered
    assert got.first_bytes == b"x" * MOST_BODY_BYTES
    assert time.monotonic() - began < 2
    assert receiver.sent_bytes < 10 * 2**20  # what the kernel's buffers take


async def test_a_compressed_bomb_is_not_unpacked(client: WebhookClient, receiver: Receiver) -> None:
    bomb = gzip.compress(b"\0" * 2**20)
    receiver.behave = saying(answer(200, bomb, content_encoding="gzip"))
    assert (await send(client, receiver.url)).first_bytes == bomb[:MOST_BODY_BYTES]


@pytest.mark.parametrize(
    ("raw", "hang_up"),
    [
        (b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nshort", True),
        (b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nshort", False),
    ],
)
async def test_a_lie_about_the_length_changes_nothing_of_the_status(
    client: WebhookClient, receiver: Receiver, raw: bytes, hang_up: bool
) -> None:
    receiver.behave = saying(raw, hang_up=hang_up)
    began = time.monotonic()
    got = await send(client, receiver.url)
    assert got.is_delivered
    assert got.first_bytes in (b"short", b"")
    assert time.monotonic() - began < 3
    receiver.behave = saying(answer(200, b"well"))
    after = await send(client, receiver.url)
    assert (after.first_bytes, receiver.requests[1].connection) == (b"well", 2)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 x\r\ncontent-length: 5\r\n\r\nshort, and much more than that",
        b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
        b"",
        b"HTTP/1.1 20",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 x\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 x\r\nlong: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 x\r\ncontent-length: -5\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_an_error(client: WebhookClient, receiver: Receiver, raw: bytes) -> None:
    receiver.behave = saying(raw, hang_up=True)
    got = await send(client, receiver.url)
    assert got.status is None
    assert got.error in ("the receiver hung up without an answer", "the receiver's answer is no HTTP")


async def test_an_answer_before_the_body_is_read_counts(client: WebhookClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(413, b"too long", connection="close"))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    async with server:
        port = server.sockets[0].getsockname()[1]
        got = await send(client, f"http://127.0.0.1:{port}/", body=b"x" * 50_000_000)
    assert got.status == 413


async def test_a_receiver_that_is_silent_or_slow_costs_the_deadline(client: WebhookClient, receiver: Receiver) -> None:
    async def drip(_: Received, writer: asyncio.StreamWriter) -> bool:
        for byte in b"HTTP/1.1 200 OK\r\n" * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return True

    async def silent(_: Received, __: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(60)
        return True

    for behave in (drip, silent):
        receiver.behave, began = behave, time.monotonic()
        got = await send(client, receiver.url, timeout_s=0.3)
        assert (got.status, got.error) == (None, "no answer within 0.3 s")
        assert time.monotonic() - began < 2


async def test_a_host_that_does_not_answer_a_connection_costs_two_seconds(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CONNECT_TIMEOUT_S", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for it in fillers:
            it.setblocking(False)
            it.connect_ex(full.getsockname())
        got = await send(client, f"http://127.0.0.1:{full.getsockname()[1]}/")
        for it in fillers:
            it.close()
    assert got.error == "not connected within 0.3 s"


async def test_nobody_listens_and_no_such_name_are_told_without_the_query(client: WebhookClient) -> None:
    refused = await send(client, f"http://127.0.0.1:{free_port()}/?token=hunter2")
    assert refused.error is not None
    assert refused.error.startswith("not connected: ")
    unknown = await send(client, "https://no-such-name.invalid/?token=hunter2")
    assert unknown.error is not None
    assert unknown.error.startswith("the name was not resolved: ")
    assert "hunter2" not in refused.error + unknown.error


async def test_a_name_that_leads_to_ourselves_is_refused_and_nothing_is_connected_to(receiver: Receiver) -> None:
    port = receiver.url.split(":")[2].split("/")[0]
    async with webhook_client(allow_private=False) as careful:
        got = await careful.attempt(
            destination_of(f"https://localhost:{port}/", allow_private=False), {"webhook-id": "1"}, BODY
        )
    assert got.error is not None
    assert "private" in got.error
    assert receiver.connections == 0


async def test_a_connection_goes_to_the_address_that_was_checked_and_the_host_stays(
    client: WebhookClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(receiver.url.split(":")[2].split("/")[0])
    answers = ["127.0.0.1"]

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert host == "shop.example"
        return [(socket.AF_INET, 1, 6, "", (answers.pop() if answers else "8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert (await send(client, f"http://shop.example:{port}/")).is_delivered
    assert receiver.requests[0].headers["host"] == f"shop.example:{port}"
    receiver.hang_up()

    async def is_refused() -> bool:  # once the client has seen that the connection is gone
        # The name leads elsewhere now, where http may not go.
        got = await send(client, f"http://shop.example:{port}/")
        return got.error == "http is for private addresses alone: use https"

    await eventually(is_refused)
    assert len(receiver.requests) == 1


# ── TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of shop.example and its key, in one file."""
    file = tmp_path_factory.mktemp("tls") / "shop.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=shop.example", "-days", "2"]
    names = ["-addext", "subjectAltName=DNS:shop.example", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run([*command, *names], check=True, capture_output=True)
    with file.open("a") as both:
        both.write(Path(f"{file}.crt").read_text())
    return file


def lead_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    ("host", "is_trusted", "error"),
    [
        ("shop.example", True, None),
        ("shop.example", False, "self-signed certificate"),
        ("other.example", True, "Hostname mismatch"),
        ("127.0.0.1", True, "IP address mismatch"),
    ],
)
async def test_the_certificate_must_be_trusted_and_be_the_url_s(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, host: str, is_trusted: bool, error: str | None
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    if is_trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    lead_home(monkeypatch)
    async with receiving(tls=tls) as receiver, webhook_client(allow_private=True) as client:
        got = await send(client, receiver.url.replace("127.0.0.1", host))
        if error is None:
            assert got.is_delivered
            assert names == ["shop.example"]
        else:
            assert got.error is not None
            assert got.error.startswith("TLS: ")
            assert error in got.error
            assert receiver.requests == []
