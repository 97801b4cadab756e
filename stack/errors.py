"""HeadraceError: every failure that a user sees. Says what failed, the likely cause, the fix, and the log."""

from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from pathlib import Path

TAIL_LINES = 12


@dataclass(eq=False)
class HeadraceError(Exception):
    """What failed, the likely cause, what to do about it, and the path of the log with the details."""

    what: str
    cause: str = ""
    fix: str = ""
    log: str = ""

    def __str__(self) -> str:
        return self.what

    def lines(self) -> list[str]:
        """The error as printed, with the last lines of its log."""
        parts = [f"error: {self.what}"]
        parts += [f"  cause: {self.cause}"] if self.cause else []
        parts += [f"  fix:   {self.fix}"] if self.fix else []
        parts += [f"  log:   {self.log}"] if self.log else []
        return parts + [f"    | {line}" for line in tail(Path(self.log))] if self.log else parts

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def disk_full(error: BaseException, directory: Path) -> HeadraceError | None:
    """The error to show when `error` means a full disk or an exhausted quota; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return HeadraceError(
        f"cannot write {error.filename or directory}",
        f"{error.strerror}: `df -h {directory}` shows how much there is",
        "free some space, or: HEADRACE_HOME=/a/directory/elsewhere ./headrace up",
    )


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last `lines` lines of a log; empty when it cannot be read. Reads at most 64 kB, however long the log is."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:400] for line in text.splitlines() if line.strip()][-lines:]
