"""The pages under /docs/problems: what each `type` of a problem resolves to."""

import html
import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from string import Template

from web.documents.openapi import ANYWHERE, problems_of
from web.documents.problem_examples import example_of, other_examples_of
from web.problems.kinds import KINDS, METHOD_NOT_ALLOWED, TYPES, Kind
from web.requests.operations import Operation

_PAGE = Template((Path(__file__).parent / "static" / "problem.html").read_text())


def index_page(navigation: str) -> bytes:
    """The page that lists all kinds, by status."""
    kinds = sorted(KINDS.values(), key=lambda kind: (kind.status, kind.name))
    rows = "\n".join(map(_row, kinds))
    content = f"""\
<h1>Problems</h1>
<p>Every error is <code>application/problem+json</code> (RFC 9457). Its <code>type</code> keeps its meaning for ever,
and is a link to its page here; its <code>detail</code> says what to do about the case at hand.</p>
<table>
<thead><tr><th>status</th><th>type</th><th>title</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""
    return _page("Problems", navigation, content)


def kind_page(kind: Kind, operations: Sequence[Operation], navigation: str) -> bytes:
    """The page of one kind: what has happened, what to do, examples, and the operations that answer it."""
    examples = "".join(_example(body) for body in (example_of(kind), *other_examples_of(kind).values()))
    content = f"""\
<p class="status">{kind.status} {HTTPStatus(kind.status).phrase}</p>
<h1>{_text(kind.title)}</h1>
<p>{_text(kind.meaning)}</p>
<h2>What to do</h2>
<p>{_text(kind.remedy)}</p>
<h2>Example</h2>
{examples}<h2>Where it is answered</h2>
{_places(kind, operations)}"""
    return _page(kind.title, navigation, content)


def _example(body: object) -> str:
    return f"<pre><code>{html.escape(json.dumps(body, indent=2, ensure_ascii=False))}</code></pre>\n"


def _places(kind: Kind, operations: Sequence[Operation]) -> str:
    if kind is METHOD_NOT_ALLOWED:
        return "<p>At every path, to the methods that it does not have.</p>"
    if kind in ANYWHERE:
        return "<p>To any request.</p>"
    found = [it for it in operations if kind in problems_of(it)]
    if not found:
        return f'<p>Not by this service. <a href="{TYPES}">All problems</a></p>'
    return "\n".join(["<ul>", *map(_place, found), "</ul>"])


def _place(operation: Operation) -> str:
    call = f"<code>{operation.method} {html.escape(operation.path)}</code>"
    return f'<li><a href="/docs#/{operation.tag}/{operation.id}">{call}</a> {_text(operation.summary)}</li>'


def _row(kind: Kind) -> str:
    link = f'<a href="{kind.type}">{kind.name}</a>'
    return f'<tr><td class="status">{kind.status}</td><td>{link}</td><td>{_text(kind.title)}</td></tr>'


def _page(title: str, navigation: str, content: str) -> bytes:
    return _PAGE.substitute(title=html.escape(title), navigation=navigation, content=content).encode()


def _text(text: str) -> str:
    """Escaped text, with backquoted parts as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))
