"""`GET /`: what this service is, and where to go on. A page for a person, JSON for a program."""

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from string import Template
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from web.access.clients import PUBLIC
from web.documents.resources import HTML, JSON, Resource
from web.requests.accept import prefers_html
from web.requests.operations import Answer, Content, Operation

TAG = "About"
TAG_TEXT = "What answers at this address."

_STATIC = Path(__file__).parent / "static"
_PAGE = Template((_STATIC / "front.html").read_text())
_STYLE = (_STATIC / "front.css").read_text()

# The page needs no other file: its style is in it, allowed by its digest.
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

# What a card says of each link.
_CARDS = {
    "documentation": ("Documentation", "Read every request, and try it"),
    "problems": ("Problems", "Every error, and what to do about it"),
    "openapi": ("OpenAPI", "The description for tools and generators"),
    "asyncapi": ("AsyncAPI", "The messages between the services"),
    "alive": ("Alive?", "Whether the process runs"),
    "ready": ("Ready?", "Whether it can do its work"),
    "health": ("Health", "What is wrong. Where there are keys: with the scope ops"),
    "orders": ("Orders →", "The API that takes orders"),
    "products": ("Products →", "The API that keeps products and their stock"),
}


class ServiceDescription(msgspec.Struct, frozen=True):
    """What answers at this address."""

    service: Annotated[str, Meta(description="`ingest_api` or `product_api`.")]
    version: str
    about: Annotated[str, Meta(description="For a person.")]
    links: Annotated[
        dict[str, str],
        Meta(description="By what each leads to: `documentation`, `openapi`, `ready`, …, and the other API, if known."),
    ]


_EXAMPLE = ServiceDescription(
    "ingest_api",
    "1.0.0",
    "Takes orders.",
    {"documentation": "/docs", "openapi": "/openapi.json", "ready": "/readyz", "products": "http://localhost:3000"},
)
FRONT_PAGE = Operation(
    "describeService",
    "GET",
    "/",
    PUBLIC,
    TAG,
    "What is this?",
    "A page for a person, JSON for a program: HTML only where `Accept` prefers it to JSON. Any query is ignored.",
    answers=(
        Answer(
            200,
            "The service, its version, and where to go on.",
            (
                Content(ServiceDescription, {"The API of orders": _EXAMPLE}),
                Content(str, {"A page": "<!DOCTYPE html>…"}, "text/html"),
            ),
        ),
    ),
    ignores_query=True,
)


class FrontPage:
    """An ASGI application that answers GET and HEAD with the page or with JSON."""

    def __init__(self, title: str, described: ServiceDescription, operations: Sequence[Operation], path: str) -> None:
        """`operations`: listed on the page. `path`: the public path, which begins every link to this service."""
        vary = "Accept, Accept-Encoding"
        page = _page(title, described, operations, path)
        self._page = Resource.of(page, HTML, policy=_POLICY, vary=vary)
        self._description = Resource.of(msgspec.json.encode(described), JSON, vary=vary)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = prefers_html(Request(scope).headers.getlist("accept"))
        await (self._page if is_page else self._description)(scope, receive, send)


def links_of(documents: Sequence[str], others: Mapping[str, str], path: str) -> dict[str, str]:
    """Where to go on, by what it is. `documents`: paths of JSON. `others`: the addresses of other APIs, by name."""
    named = {name.removeprefix("/").removesuffix(".json"): name for name in documents}
    own = {"documentation": "/docs", "problems": "/docs/problems", **named, "alive": "/livez", "ready": "/readyz"}
    return {**{what: path + link for what, link in own.items()}, "health": f"{path}/health", **others}


def _page(title: str, described: ServiceDescription, operations: Sequence[Operation], path: str) -> bytes:
    return _PAGE.substitute(
        title=html.escape(title),
        style=_STYLE,
        about=html.escape(described.about),
        service=described.service,
        version=html.escape(described.version),
        links="\n".join(_card(what, link) for what, link in described.links.items()),
        operations="\n".join(_row(it, path) for it in operations),
    ).encode()


def _card(what: str, link: str) -> str:
    name, text = _CARDS[what]
    return f'<a class="card" href="{html.escape(link)}"><strong>{name}</strong><span>{text}</span></a>'


def _row(operation: Operation, path: str) -> str:
    call = f'<code><b class="{operation.method.lower()}">{operation.method}</b> {html.escape(operation.path)}</code>'
    link = f"{path}/docs#/{operation.tag}/{operation.id}"
    return f'<li><a href="{link}">{call}</a><span>{html.escape(operation.summary)}</span></li>'
