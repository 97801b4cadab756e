"""Draws the report of a demo as a terminal, in SVG, for documents."""

from __future__ import annotations

import io
import re

from rich.console import Console

from stack.operate.demo.report import Run, print_report

COMMAND = "./headrace demo"
COLUMNS = 84
# rich names fonts on another host. A document loads nothing from elsewhere: the reader's own monospace font will do.
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def picture(run: Run) -> str:
    """The command and the whole report of `run`, as a terminal shows them."""
    terminal = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    terminal.print(f"[dim]$[/] {COMMAND}\n")
    print_report(run, terminal)
    return _FONT_FACE.sub("", terminal.export_svg(title=COMMAND, unique_id="demo"))
