"""Keeps one connection to RabbitMQ up: connect, run a session on it, and reconnect when it is lost.

It uses aio-pika's plain connection, not its robust one. The robust one restores channels silently, which breaks code
that counts confirms and delivery tags, and never replays a failed publish. Here a new connection is a new session, and
no state outlives it.
"""

import asyncio
import itertools
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import NoReturn
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from pipeline.broker import pamqp_patches
from pipeline.process import error_text, metrics
from pipeline.process.backoff import backoff_s
from pipeline.process.coroutines import WouldWait, run_without_waiting
from pipeline.process.health import Health
from pipeline.process.settings import BrokerSettings

log = structlog.get_logger()

_CONNECT_TIMEOUT_S = 5.0
# A frozen node does not answer, nor does one whose machine is gone; the kernel may still accept the connection. A node
# cut off from the others even takes messages, and confirms none. A healthy node answers in milliseconds. So each of
# several nodes gets less time in the first round; after that, they are taken to be slow.
_ONE_OF_SEVERAL_TIMEOUT_S = 2.0
# A vanished peer does not answer a close either. What it has not confirmed by then is unknown anyway.
_CLOSE_TIMEOUT_S = 2.0
# Opening a channel and declaring take milliseconds. A node cut off from its cluster answers the handshake and then
# nothing: the queue's leader is elsewhere. Its heartbeats continue, so only this timeout notices.
_ANSWER_TIMEOUT_S = 5.0

Session = Callable[[AbstractConnection], Awaitable[None]]


class BrokerLost(Exception):
    """The connection, its channel or its consumer is gone, or the broker refused a request."""


# What the client raises when the broker or the network is at fault. aio-pika's own CONNECTION_EXCEPTIONS will not do:
# it holds RuntimeError, so a bug of ours would look like a passing fault and be retried for ever.
_BROKER_ERRORS = (
    BrokerLost,
    aiormq.exceptions.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    OSError,
)


def is_broker_fault(error: BaseException) -> bool:
    """Whether the broker or the network, rather than a bug of ours, caused an error of the AMQP client.

    aiormq 7.2 fails all that waits on a dying channel with the reason of its death, often a bare `Exception` or a
    CancelledError (base.py, `reject_all`). The latter looks like a cancellation of our own task, but is none.
    """
    if isinstance(error, asyncio.CancelledError):
        return not _is_cancelled()
    return isinstance(error, _BROKER_ERRORS) or type(error) is Exception


async def keep_connected(settings: BrokerSettings, health: Health, part: str, session: Session) -> None:
    """Run `session` on a connection named `part`, and again on a new one whenever the connection is lost.

    Runs until cancelled. A session marks `part` as up when it is ready for work, and ends by raising. Each attempt
    takes the next node of a cluster, beginning with a random one. So clients spread over the nodes. A client whose node
    fails, or is cut off from the others, is on the next a moment later.
    """
    pamqp_patches.apply()
    attempt, nodes = 0, len(settings.amqp_urls)
    for url in _nodes(settings.amqp_urls):
        timeout_s = patience_s(_CONNECT_TIMEOUT_S, attempt, nodes)
        try:
            async with _connection(settings, url, f"{health.service} {part}", timeout_s) as connection:
                await session(connection)
        except BaseException as error:
            if not is_broker_fault(error):
                raise
            # A session that became ready starts the count again; one that never did is another failed attempt.
            attempt = 0 if health.is_up(part) else attempt + 1
            wait_s = backoff_s(attempt // nodes)  # one failed node says nothing of the next
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
    """The timeout of a node that has not answered yet: `timeout_s`, or less in the first round over several nodes."""
    return min(timeout_s, _ONE_OF_SEVERAL_TIMEOUT_S) if attempt < nodes > 1 else timeout_s


def _nodes(urls: list[str]) -> Iterator[str]:
    """The addresses in turn, for ever, beginning with a random one."""
    first = random.randrange(len(urls))
    return itertools.cycle(urls[first:] + urls[:first])


# RabbitMQ's own messages begin like this: NOT_ALLOWED - vhost shop not found.
_BROKERS_WORDS = re.compile(r"[A-Z][A-Z_]+ - ")


def describe(error: BaseException) -> str:
    """An error in one line, for logs and health: in the broker's own words if there are any, else type and text."""
    for word in error.args if isinstance(error, aiormq.exceptions.AMQPError) else ():
        if isinstance(word, str) and _BROKERS_WORDS.match(word):
            return word
    return error_text.describe(error)


def is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has sent connection.blocked (an alarm for memory or disk) and not yet unblocked."""
    if connection.transport is None:
        return True
    try:
        # The client shows it only through a coroutine, which returns at once if the connection is not blocked.
        run_without_waiting(connection.transport.connection.ready())
    except WouldWait:
        return True
    return False


def raise_as_lost(connection: AbstractConnection, error: RuntimeError) -> NoReturn:
    """Raises BrokerLost if the connection is dead, else `error`, which is a bug of ours.

    aio-pika and aiormq raise RuntimeError for a request on a connection that has just died.
    """
    if connection.transport is not None and not connection.transport.connection.is_closed:
        raise error
    raise BrokerLost(describe(error)) from error


def when_lost(connection: AbstractConnection, channel: AbstractChannel) -> asyncio.Future[None]:
    """A future that raises BrokerLost when the channel or its connection closes, for any reason.

    Cancelling it removes its callbacks.
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
    """Bound a session's requests to the broker, besides messages. Raises BrokerLost if the answer takes too long."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise BrokerLost(f"connected, but no answer within {_ANSWER_TIMEOUT_S:g} s") from error


async def ends_within(lost: asyncio.Future[None], seconds: float) -> bool:
    """Wait up to `seconds`. Returns whether the future ended; raises what it ended with."""
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
        # The client raises it for a FIN in place of an answer. Leaving this generator, it would become a RuntimeError.
        raise BrokerLost("closed during the handshake") from error
    try:
        if _is_cancelled():
            # The client connects by wait_for, which loses a cancellation that arrives together with the answer (CPython
            # gh-86296, before 3.12). Nobody would cancel the session a second time.
            raise asyncio.CancelledError
        yield connection
    except RuntimeError as error:
        raise_as_lost(connection, error)
    finally:
        closing = asyncio.create_task(_close(connection, name))
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        # When the process stops, wait for the broker's answer. A lost connection gets none, so the next connection
        # does not wait for it.
        if _is_cancelled():
            await closing


# Keeps the tasks alive: the event loop holds no strong reference.
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
