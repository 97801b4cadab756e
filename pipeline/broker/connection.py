"""One connection to RabbitMQ, kept up: connect, hand it to a session, and when it is lost, again.

aio-pika's plain connection, not its robust one: the robust one restores channels behind the back of whoever counts
confirms and delivery tags, and never replays a failed publish. Here a new connection is a new session, and nothing
outlives it.
"""

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader

from pipeline.process import error_text, metrics
from pipeline.process.health import Health
from pipeline.process.settings import BrokerSettings

log = structlog.get_logger()

_CONNECT_TIMEOUT_S = 5.0
# Of a node that is frozen, or whose machine is gone: the kernel may even take the connection for it, and nothing comes.
# One that is cut off from the others takes even messages, and confirms none. A healthy one answers in milliseconds; so,
# once around, each of several gets less, and after that they are just slow.
_ONE_OF_SEVERAL_TIMEOUT_S = 2.0
# A peer that is gone does not answer a close either. What it has not confirmed by then is unknown anyway.
_CLOSE_TIMEOUT_S = 2.0
# To open a channel and declare takes milliseconds. A node that is cut off from the others of its cluster answers the
# handshake, and then nothing: the queue's leader is elsewhere. Heartbeats go on, so nobody else would notice.
_ANSWER_TIMEOUT_S = 5.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0

_unmarshal = ContentHeader.unmarshal


def _unmarshal_what_can_be(header: ContentHeader, data: bytes) -> None:
    """pamqp's own, but for properties that it cannot decode: those are none, and the message is one of no version.

    It raises, the client takes that for the end of the connection, and every consumer that is given the message dies of
    it, with all that it had prefetched, until the broker gives up on them all (P10).
    """
    try:
        _unmarshal(header, data)
    except Exception as error:
        if len(data) < _HEADER_BYTES:
            raise
        header.properties = Basic.Properties()
        log.error("a message has properties that cannot be read", error=describe(error))


# Class, weight and the size of the body, which pamqp has read by then.
_HEADER_BYTES = 12
# What the client calls for each message; it has no other place to say so. pamqp 4.0.
ContentHeader.unmarshal = _unmarshal_what_can_be  # type: ignore[assignment]

# A broker that refuses a virtual host (missing, forbidden, full) answers Open with Close, which says why. aiormq 7.2
# expects no Close there, so it would raise an InvalidFrameError with the address of an object in place of the reason.
Connection.Open.valid_responses.append("Connection.Close")

Session = Callable[[AbstractConnection], Awaitable[None]]


class BrokerLost(Exception):
    """The connection, its channel or its consumer is gone, or the broker refused what was asked."""


# What the client raises when the broker or the network is at fault. aio-pika's own CONNECTION_EXCEPTIONS will not do:
# it holds RuntimeError, so it would take a bug of ours for a passing fault and retry it for ever.
_BROKER_ERRORS = (
    BrokerLost,
    aiormq.exceptions.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    OSError,
)


def is_broker_fault(error: BaseException) -> bool:
    """Whether an error that came out of the AMQP client is the world's fault rather than ours.

    aiormq 7.2 ends whatever waits on a dying channel with the reason of its death, which is often a bare `Exception` or
    a CancelledError (base.py, `reject_all`). The latter looks like a cancellation of our own task, and is none.
    """
    if isinstance(error, asyncio.CancelledError):
        return not _is_cancelled()
    return isinstance(error, _BROKER_ERRORS) or type(error) is Exception


def backoff_s(attempt: int, first_s: float = _FIRST_RETRY_S, last_s: float = _LAST_RETRY_S) -> float:
    """Seconds to wait before retry number `attempt` (from 0): doubled each time, bounded, with half of it jitter.

    Jitter, because a broker that comes back is met by all its clients at once.
    """
    doubled: float = first_s * 2 ** min(attempt, 16)
    return min(last_s, doubled) * random.uniform(0.5, 1.0)


async def keep_connected(settings: BrokerSettings, health: Health, part: str, session: Session) -> None:
    """Run `session` on a connection of its own, named `part`, and again on a new one whenever it is lost.

    Runs until it is cancelled. A session marks `part` as up when it is ready for work, and ends by raising. Of a
    cluster's nodes it takes one after the other, from any on: so clients spread over them, and whoever loses one, or is
    let down by one that is cut off from the others, is with the next a moment later.
    """
    attempt, nodes = 0, len(settings.amqp_urls)
    for url in _nodes(settings.amqp_urls):
        timeout_s = patience_s(_CONNECT_TIMEOUT_S, attempt, nodes)
        try:
            async with _connection(settings, url, f"{health.service} {part}", timeout_s) as connection:
                await session(connection)
        except BaseException as error:
            if not is_broker_fault(error):
                raise
            # A session that got as far as doing work is a loss; one that never did is one more failed attempt.
            attempt = 0 if health.is_up(part) else attempt + 1
            wait_s = backoff_s(attempt // nodes)  # that one node is away says nothing of the next
            health.down(part, f"RabbitMQ: {describe(error)}")
            metrics.BROKER_RECONNECTS.labels(part).inc()
            log.warning(
                "broker connection lost",
                part=part,
                node=urlsplit(url).netloc.rpartition("@")[2],
                error=describe(error),
                retry_in_s=round(wait_s, 2),
            )
            await asyncio.sleep(wait_s)


def patience_s(timeout_s: float, attempt: int, nodes: int) -> float:
    """How much of `timeout_s` a node gets that has not answered yet, after so many attempts in vain at any of them."""
    return min(timeout_s, _ONE_OF_SEVERAL_TIMEOUT_S) if attempt < nodes > 1 else timeout_s


def _nodes(urls: list[str]) -> Iterator[str]:
    """The addresses in turn, for ever, from any of them on."""
    first = random.randrange(len(urls))
    return itertools.cycle(urls[first:] + urls[:first])


# How RabbitMQ begins what it says: NOT_ALLOWED - vhost shop not found.
_BROKERS_WORDS = re.compile(r"[A-Z][A-Z_]+ - ")


def describe(error: BaseException) -> str:
    """An error in one line, for logs and health: the broker's own words, where it said any. Many of the client's errors
    have no text of their own.
    """
    for word in error.args if isinstance(error, aiormq.exceptions.AMQPError) else ():
        if isinstance(word, str) and _BROKERS_WORDS.match(word):
            return word
    return error_text.describe(error)


def when_lost(connection: AbstractConnection, channel: AbstractChannel) -> asyncio.Future[None]:
    """A future that raises BrokerLost when the channel or its connection closes for whatever reason.

    Cancelled, it no longer listens.
    """
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def closed(_: object, error: BaseException | None) -> None:
        if not lost.done():
            lost.set_exception(BrokerLost(describe(error) if error else "closed"))

    def ended(_: object) -> None:
        connection.close_callbacks.discard(closed)
        channel.close_callbacks.discard(closed)

    lost.add_done_callback(_retrieved)  # the session may have ended for another reason before it looked
    lost.add_done_callback(ended)
    connection.close_callbacks.add(closed)
    channel.close_callbacks.add(closed)
    if channel.is_closed:  # before anyone listened
        closed(None, None)
    return lost


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """What a session asks of the broker besides messages. Raises BrokerLost when the answer takes too long."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise BrokerLost(f"connected, but no answer within {_ANSWER_TIMEOUT_S:g} s") from error


async def ends_within(lost: asyncio.Future[None], seconds: float) -> bool:
    """Whether the future ended in that time; raises what it ended with."""
    done, _ = await asyncio.wait({lost}, timeout=seconds)
    return bool(done) and lost.result() is None


def _retrieved(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


@asynccontextmanager
async def _connection(
    settings: BrokerSettings, url: str, name: str, timeout_s: float
) -> AsyncIterator[AbstractConnection]:
    try:
        connection = await aio_pika.connect(
            url,
            timeout=timeout_s,
            heartbeat=settings.amqp_heartbeat_s,
            client_properties={"connection_name": name},
        )
    except TimeoutError as error:
        raise BrokerLost(f"no answer within {timeout_s:g} s") from error
    except StopAsyncIteration as error:
        # How the client says that it read a FIN in place of an answer. Out of a generator it would be a RuntimeError.
        raise BrokerLost("closed during the handshake") from error
    try:
        if _is_cancelled():
            # The client connects by wait_for, which forgets a cancellation that comes together with the answer
            # (gh-86296 of CPython, before 3.12). Nobody would cancel the session a second time.
            raise asyncio.CancelledError
        yield connection
    except RuntimeError as error:
        # What the client says when it is asked for something on a connection that has died a moment ago.
        if connection.transport is not None and not connection.transport.connection.is_closed:
            raise
        raise BrokerLost(describe(error)) from error
    finally:
        closing = asyncio.create_task(_close(connection, name))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        # At the end of the process the broker should hear of it. Of one that is lost nothing is to be heard, and the
        # next connection need not wait for that.
        if _is_cancelled():
            await closing


# The event loop itself keeps no task alive.
_closing: set[asyncio.Task[None]] = set()


async def _close(connection: AbstractConnection, name: str) -> None:
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await connection.close()
    except BaseException as error:
        if not is_broker_fault(error):
            raise
        log.info("broker connection did not close cleanly", connection=name, error=describe(error))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
