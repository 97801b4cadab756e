"""What the supervisor tells whoever started it: one JSON object a line on its standard output.

`begin` and `done` (a step, with its seconds), `note`, then `ready` or `failed` (the fields of HeadraceError), and
`stopped`. `busy` means that another process holds the state directory.
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
    """`text` is what the finished step is called; set it once more is known (a version, a port)."""

    text: str


class Events:
    def emit(self, event: str, **fields: object) -> None:
        """Never fails: after a detach nobody reads any more, and the log has it too."""
        log.info("%s %s", event, json.dumps(fields))
        with contextlib.suppress(OSError):
            os.write(STDOUT, (json.dumps({"event": event, **fields}) + "\n").encode())

    @contextlib.contextmanager
    def step(self, key: str, doing: str) -> Iterator[Step]:
        """Time one step; it is only reported as done when it does not raise."""
        self.emit("begin", key=key, text=doing)
        since = time.monotonic()
        step = Step(doing)
        yield step
        self.emit("done", key=key, text=step.text, seconds=round(time.monotonic() - since, 2))
