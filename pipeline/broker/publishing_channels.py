"""The channels of a connection that publishes: one or two to publish on, and one for each other use.

pipeline.broker.channel_replacement says when a channel is replaced.
"""

import asyncio
from dataclasses import dataclass

import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection

from pipeline.broker.channel_replacement import ChannelReplacement, ChannelState, Step
from pipeline.broker.connection import BrokerLost, answering, raise_as_lost, when_lost

# Publishing uses 1 and 2. Each other use has its own number: a number that the client chose may be one of these.
ASKING_CHANNEL, LOOKING_CHANNEL, DECLARING_CHANNEL = 3, 4, 5


@dataclass(eq=False, slots=True)
class PublishingChannel:
    """A channel to publish on, with confirms."""

    channel: AbstractChannel
    underlay: aiormq.Channel
    lost: asyncio.Future[None]
    """Ends when the channel does, with what ended it."""
    state: ChannelState


class PublishingChannels:
    """The channel in use on a connection, and the one that it replaces until that is closed."""

    def __init__(
        self, connection: AbstractConnection, replacement: ChannelReplacement, first: PublishingChannel
    ) -> None:
        self._connection, self._replacement = connection, replacement
        self.current = first
        self._former: PublishingChannel | None = None

    @classmethod
    async def open(cls, connection: AbstractConnection) -> "PublishingChannels":
        replacement = ChannelReplacement(opened_at=_now())
        return cls(connection, replacement, await _open(connection, replacement.current))

    async def replace_if_stuck(self, *, is_suspect: bool) -> bool:
        """Publish on a new channel if the one in use refuses for too long. Returns whether it was replaced."""
        if self._replacement.next_step(_now(), is_suspect=is_suspect) is not Step.OPEN_ANOTHER:
            return False
        another = await _open(self._connection, self._replacement.another(_now()))
        if self.current.lost.done():  # a publish got no answer meanwhile, so the whole connection goes
            return False
        self._replacement.opened(another.state)
        self.current, self._former = another, self.current
        return True

    async def close_former_if_idle(self) -> None:
        """Close the channel that was replaced, once none of its messages waits for a confirm."""
        if self._former is None or self._replacement.next_step(_now()) is not Step.CLOSE_FORMER:
            return
        if await _is_closed(self._former):
            self._replacement.closed_former()
            self._former = None


async def open_channel(
    connection: AbstractConnection, number: int, *, publisher_confirms: bool = False, on_return_raises: bool = False
) -> AbstractChannel:
    """Open channel `number`. Raises BrokerLost also if it is in use: an answer that never came may have left it so.

    A look asks beside the session, which may not have noticed yet that the connection is dead.
    """
    try:
        return await connection.channel(
            number, publisher_confirms=publisher_confirms, on_return_raises=on_return_raises
        )
    except RuntimeError as error:
        raise_as_lost(connection, error)
    except ValueError as error:
        raise BrokerLost(str(error)) from error


async def _open(connection: AbstractConnection, state: ChannelState) -> PublishingChannel:
    async with answering():
        channel = await open_channel(connection, state.number, publisher_confirms=True, on_return_raises=True)
    underlay = await channel.get_underlay_channel()
    assert isinstance(underlay, aiormq.Channel)
    return PublishingChannel(channel, underlay, when_lost(connection, channel), state)


async def _is_closed(it: PublishingChannel) -> bool:
    """Close the channel. Returns whether the broker has closed it too."""
    it.lost.cancel()
    async with answering():
        await it.channel.close()
    # With short heartbeats the client stops waiting for the answer by itself, but the number is free only after it.
    return it.underlay.number not in it.underlay.connection.channels


def _now() -> float:
    return asyncio.get_running_loop().time()
