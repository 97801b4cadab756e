"""Log files: readable only by their owner, and bounded even while a process writes to them."""

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
# A server that writes 10 MB/s exceeds the bound by 10 MB.
LOOK_EVERY_S = 1.0

log = logging.getLogger(__name__)


def open_log(path: Path) -> BinaryIO:
    """Open for appending, mode 0600. A long log is renamed first: at most two files for each name."""
    if _is_long(path):
        with contextlib.suppress(FileNotFoundError), _locked(path) as file:
            if file is not None:
                path.replace(_former(path))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


async def keep_bounded(directory: Path) -> None:
    """Cut back logs in `directory` that have grown too long, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await asyncio.to_thread(cut_back_what_is_long, directory)
        except Exception:  # no thread to be had, say: keep looking
            log.exception("the logs were not looked at")


def cut_back_what_is_long(directory: Path) -> None:
    for path in filter(_is_long, directory.glob("*.log")):
        cut_back(path)


def cut_back(path: Path) -> None:
    """Copy the log to its second file, and empty it. Never raises OSError.

    Not renamed: PostgreSQL, RabbitMQ and Redis keep the file open, and would never open another. All of them append,
    so they continue at the start of the emptied file. Lines written between the copy and the emptying are lost, as
    with logrotate's copytruncate; our services write few lines (pipeline.process.logs.floods). Without room for the
    copy, the whole log is lost: the bound matters more.
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
    """The open log, locked; None if another process cuts it back now, or has just done so.

    Without the lock, a log that is renamed while it is copied would be emptied under its new name: both copies lost.
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
