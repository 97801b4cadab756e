"""Log files: read by their owner alone, bounded, also while somebody writes to them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

ROTATE_BYTES = 20_000_000
# A server that says 10 MB of it a second is 10 MB over the bound.
LOOK_EVERY_S = 1.0

log = logging.getLogger(__name__)


def open_log(path: Path) -> BinaryIO:
    """Open for appending, mode 0600. A big one is set aside first: two files for each name, and no more."""
    if _is_long(path):
        with contextlib.suppress(FileNotFoundError), _locked(path) as file:
            if file is not None:
                path.replace(_former(path))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


async def keep_bounded(directory: Path) -> None:
    """Cut back whichever log in `directory` has grown too long, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await asyncio.to_thread(cut_back_what_is_long, directory)
        except Exception:  # of threads, say: a log that grows is no reason to end, nor to look no more
            log.exception("the logs were not looked at")


def cut_back_what_is_long(directory: Path) -> None:
    for path in filter(_is_long, directory.glob("*.log")):
        cut_back(path)


def cut_back(path: Path) -> None:
    """Move what the log holds to its second file, and go on with an empty one. Never raises OSError.

    Copied and emptied, not renamed: whoever writes has the file open, and PostgreSQL, RabbitMQ and Redis would never
    open another. All of them append, so they go on at the beginning of what is empty then. What is written between
    the end of the copy and the emptying is lost, as with logrotate's copytruncate; our services write few
    lines (pipeline.process.logs.floods). Without room for the copy all of it is lost: the bound is worth more.
    """
    former = _former(path)
    try:
        with _locked(path) as file:
            if file is None:
                return
            try:
                with os.fdopen(os.open(former, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
                    shutil.copyfileobj(file, copy, 1 << 20)
            except OSError as error:
                former.unlink(missing_ok=True)
                log.warning("%s is emptied; no copy is kept: %s", path.name, error)
            file.truncate(0)
    except OSError as error:
        log.warning("%s cannot be cut back: %s", path.name, error)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[FileIO | None]:
    """The log, for whoever is to set it aside; None while another does, in whatever process, or has just done it.

    A log that was renamed while its copy was made would be emptied under its new name, and both files be lost.
    """
    with path.open("r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file if os.path.samestat(os.fstat(file.fileno()), path.stat()) else None


def _is_long(path: Path) -> bool:
    try:
        return path.stat().st_size > ROTATE_BYTES
    except OSError:
        return False


def _former(path: Path) -> Path:
    return path.with_suffix(".log.1")
