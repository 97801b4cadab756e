"""Log files: read by their owner alone, bounded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

ROTATE_BYTES = 20_000_000


def open_log(path: Path) -> BinaryIO:
    """Open for appending, mode 0600. A big one is set aside first: two files for each name, and no more."""
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
