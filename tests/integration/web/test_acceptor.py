"""accept() fails: the server pauses, and logs the true cause."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from tests.support.time.conditions import eventually
from web.serving.acceptor import Acceptor, listen

_OUT_OF_FILES = "not accepting connections: out of file descriptors"
_NONE_GIVEN = "not accepting connections: the system refuses them"


class Listener:
    """A socket whose accept() fails with `fails_with` while that is set."""

    def __init__(self, real: socket.socket, fails_with: int) -> None:
        self._real, self.fails_with, self.failures, self.accepted = real, fails_with, 0, 0

    def accept(self) -> tuple[socket.socket, Any]:
        if self.fails_with:
            self.failures += 1
            raise OSError(self.fails_with, os.strerror(self.fails_with))
        accepted = self._real.accept()
        self.accepted += 1
        return accepted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@asynccontextmanager
async def accepting(fails_with: int) -> AsyncIterator[Listener]:
    (real,) = await listen("127.0.0.1", 0, 10)
    listener = Listener(real, fails_with)
    sockets = cast("list[socket.socket]", [listener])
    acceptor = Acceptor(sockets, asyncio.Protocol, lambda: False, reserved_files=16)
    try:
        yield listener
    finally:
        acceptor.close()


@pytest.mark.parametrize("fails_with", [errno.ENOBUFS, errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EPROTO])
async def test_p8_accept_that_fails_is_tried_a_few_times_a_second_and_told_for_what_it_is(fails_with: int) -> None:
    with capture_logs() as logs:
        async with accepting(fails_with) as listener:
            with socket.create_connection(listener.getsockname()):
                await eventually(lambda: listener.failures >= 3)
                before = listener.failures
                await asyncio.sleep(0.5)
                assert listener.failures <= before + 4
                listener.fails_with = 0
                await eventually(lambda: listener.accepted == 1)
    (line,) = _told(logs)
    assert line["event"] == (_OUT_OF_FILES if fails_with == errno.EMFILE else _NONE_GIVEN)
    assert os.strerror(fails_with) in line["why"]


async def test_one_cause_does_not_keep_another_out_of_the_log() -> None:
    with capture_logs() as logs:
        async with accepting(errno.ENOBUFS) as listener:
            with socket.create_connection(listener.getsockname()):
                await eventually(lambda: listener.failures >= 2)
                listener.fails_with = errno.EMFILE
                await eventually(lambda: len(_told(logs)) == 2)
    assert [it["event"] for it in _told(logs)] == [_NONE_GIVEN, _OUT_OF_FILES]


def _told(logs: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [it for it in logs if it["event"].startswith("not accepting")]
