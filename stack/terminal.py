"""Terminal output: steps with their times, tables, errors. Colours and spinners appear only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from stack.errors import HeadraceError

# Wide enough for every URL: a table cut at 80 columns cannot be pasted. A terminal's own width wins.
PIPE_WIDTH = 240
STEP_COLUMN = 46


def make_console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    # rich drops only colours for NO_COLOR and keeps bold and dim. A user who sets it wants plain text.
    plain = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Console(stderr=stderr, highlight=False, width=width, **plain)  # type: ignore[arg-type]


out = make_console()
err = make_console(stderr=True)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


TICK, SPINNER = ("✓", "dots") if _can_print("✓⠋") else ("+", "line")


def say(text: str = "") -> None:
    out.print(escape(text), soft_wrap=True)


def printable(text: str) -> str:
    """Text that is safe to print: control characters and changes of direction are escaped.

    A dead letter or a receiver's answer may hold anything, even input meant to attack this terminal.
    """
    told = "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)
    encoding = sys.stdout.encoding or "ascii"
    return told.encode(encoding, "backslashreplace").decode(encoding)


def note(text: str) -> None:
    """A remark on standard error, so that standard output holds only what a script reads."""
    err.print(escape(text), soft_wrap=True)


def ask_yes(question: str) -> bool | None:
    """Ask on standard error. None: nobody can answer, because this is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    err.print(escape(f"{question} [y/N] "), end="", soft_wrap=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def show_table(table: Table, width: int | None = None) -> None:
    """Print a table. Outside a terminal, drop the blanks that rich appends to each line."""
    if out.is_terminal:
        out.print(table, width=width, crop=False)
        return
    with out.capture() as captured:
        out.print(table, width=width, crop=False)
    for line in captured.get().splitlines():
        out.out(line.rstrip(), highlight=False)


def step_done(text: str, seconds: float, *, ok: bool = True) -> None:
    mark = f"[green]{TICK}[/]" if ok else "[red]x[/]"
    out.print(f"  {mark} {escape(text):<{STEP_COLUMN}} [dim]{seconds:5.1f} s[/]", soft_wrap=True)


def print_error(error: HeadraceError) -> None:
    first, *rest = error.lines()
    err.print(f"[red]{escape(first)}[/]", soft_wrap=True)
    for line in rest:
        err.print(escape(line), soft_wrap=True)


@contextmanager
def spinner(text: str) -> Iterator[Status | None]:
    """Show a spinner while the block runs; nothing if standard output is no terminal."""
    if not out.is_terminal:
        yield None
        return
    with out.status(escape(text), spinner=SPINNER) as status:
        yield status
