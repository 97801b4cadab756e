"""Copies of the source files that pages link to, as plain HTML: the site needs no host of code, and works offline."""

import html
import re
from pathlib import Path

_NAME = re.compile(r"^\s*(?:async )?(?:def|class) (\w+)")
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{path}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 1.5rem; font: 14px/1.5 ui-monospace, Menlo, Consolas, monospace }}
span {{ display: block; min-height: 1lh; white-space: pre-wrap }}
:target {{ background: #ffd54f55 }}
</style>
<h1>{path}</h1>
{lines}
</html>
"""


def copy(path: str, root: Path) -> str:
    """The file as a page. Each `def` and `class` is an anchor of its name."""
    lines = (root / path).read_text().splitlines()
    return _PAGE.format(path=html.escape(path), lines="\n".join(map(_line, lines)))


def _line(text: str) -> str:
    match = _NAME.match(text)
    anchor = f' id="{match[1]}"' if match else ""
    return f"<span{anchor}>{html.escape(text)}</span>"
