"""The supervisor's events for the command that started it: one JSON object a line on standard output.

`begin` and `done` (a step, with its seconds), `note`, then `ready` or `failed` (with the fields of HeadraceError), and
`stopped`. `busy`: another process holds the state directory.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

STDOUT = 1

log = logging.getLogger(__name__)


@dataclass
class Step:
    """`text`: what to call the finished step. Change it when more is known, such as a version or a port."""

    text: str


class Events:
    def emit(self, event: str, **fields: object) -> None:
        """Write one event, and log it. Never fails: after a detach nobody reads."""
        log.info("%s %s", event, json.dumps(fields))
        with contextlib.suppress(OSError):
            os.write(STDOUT, (json.dumps({"event": event, **fields}) + "\n").encode())

    @contextlib.contextmanager
    def step(self, key: str, doing: str) -> Iterator[Step]:
        """Time one step. It is reported as done unless the block raises."""
        self.emit("begin", key=key, text=doing)
        since = time.monotonic()
        step = Step(doing)
        yield step
        self.emit("done", key=key, text=step.text, seconds=round(time.monotonic() - since, 2))
