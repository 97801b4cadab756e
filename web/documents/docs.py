"""Serves the documents of an API: the page at `/`, /openapi.json, the viewer at /docs, the pages of the problems.

All are made once, at start, and are public. Nothing in them comes from another host.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import msgspec
from starlette.routing import Route

from pipeline.process.version import project_version
from web.access.clients import unguarded
from web.documents import front_page
from web.documents.front_page import FRONT_PAGE, FrontPage, ServiceDescription, links_of
from web.documents.health_operations import HEALTH_OPERATIONS
from web.documents.health_operations import TAG as HEALTH_TAG
from web.documents.health_operations import TAG_TEXT as HEALTH_TEXT
from web.documents.openapi import openapi_document
from web.documents.problem_pages import index_page, kind_page
from web.documents.resources import CSS, HTML, JAVASCRIPT, JSON, Resource
from web.problems.kinds import KINDS, TYPES
from web.requests.operations import Operation
from web.requests.routes import make_routes

_STATIC = Path(__file__).parent / "static"
_VENDOR = Path(__file__).parent / "vendor" / "swagger-ui"

_DESCRIPTION = """\
{about}

- Errors are [problems](/docs/problems) (RFC 9457): branch on `type`, show `detail`, look into `errors` for the fields.
  New types may come; treat an unknown one by its status.
- Ids and links are opaque. New members may come in answers; ignore those that you do not know. Whole numbers are
  written without a decimal point and without an exponent.
- What a request has beyond what its operation takes is refused: an unknown member of the body is 422, an unknown query
  parameter is 400, and so is one that comes twice and is no list. Only `/`, `/livez`, `/readyz` and these pages
  ignore a query.
- Every `GET` takes `HEAD` too. Other methods of a path are 405, with `Allow`.
- A problem with status 503 has `Retry-After`. A connection that sends too slowly, too much, or no HTTP is closed after
  the answer.
"""


@dataclass(frozen=True)
class Api:
    """What the documents of an API are made from."""

    service: str
    title: str
    about: str
    """A sentence or two, for a person."""
    tags: Mapping[str, str]
    """What each groups."""
    operations: Sequence[Operation]
    public_path: str = ""
    """The path under which clients reach it, if a proxy in front strips it."""
    others: Mapping[str, str] = field(default_factory=dict)
    """The addresses of other APIs, by name, as people reach them."""

    @property
    def all_operations(self) -> Sequence[Operation]:
        """Its own, and those that every API has."""
        return (*self.operations, FRONT_PAGE, *HEALTH_OPERATIONS)


def document_of(api: Api) -> dict[str, Any]:
    """The OpenAPI document."""
    description = _DESCRIPTION.format(about=api.about)
    tags = {**api.tags, front_page.TAG: front_page.TAG_TEXT, HEALTH_TAG: HEALTH_TEXT}
    return openapi_document(api.title, description, tags, api.all_operations, api.public_path)


def docs_routes(api: Api, more: Mapping[str, Mapping[str, Any]] | None = None) -> list[Route]:
    """Routes for all documents. `more`: JSON besides the OpenAPI document, by path."""
    documents = {"/openapi.json": document_of(api), **(more or {})}
    navigation = _navigation(api.title, documents)
    resources = {
        **{path: Resource.of(msgspec.json.encode(it), JSON) for path, it in documents.items()},
        "/docs": Resource.of(_viewer(api.title, navigation), HTML),
        "/docs/docs.css": Resource.of((_STATIC / "docs.css").read_bytes(), CSS),
        "/docs/docs.js": Resource.of((_STATIC / "docs.js").read_bytes(), JAVASCRIPT),
        "/docs/swagger-ui.css": Resource((_VENDOR / "swagger-ui.css.gz").read_bytes(), CSS),
        "/docs/swagger-ui-bundle.js": Resource((_VENDOR / "swagger-ui-bundle.js.gz").read_bytes(), JAVASCRIPT),
        TYPES: Resource.of(index_page(navigation), HTML),
        **{it.type: Resource.of(kind_page(it, api.operations, navigation), HTML) for it in KINDS.values()},
    }
    front = make_routes([FRONT_PAGE], {FRONT_PAGE.id: _front(api, list(documents))}, unguarded)
    return [*front, *(Route(path, resource, methods=["GET"]) for path, resource in resources.items())]


def _front(api: Api, documents: Sequence[str]) -> FrontPage:
    links = links_of(documents, api.others, api.public_path)
    described = ServiceDescription(api.service, project_version(), api.about, links)
    return FrontPage(api.title, described, api.operations, api.public_path)


def _viewer(title: str, navigation: str) -> bytes:
    page = Template((_STATIC / "docs.html").read_text())
    return page.substitute(title=html.escape(title), navigation=navigation).encode()


def _navigation(title: str, documents: Mapping[str, Any]) -> str:
    links = {"/docs": "Operations", TYPES: "Problems", **{path: path.removeprefix("/") for path in documents}}
    items = " ".join(f'<a href="{path}">{html.escape(text)}</a>' for path, text in links.items())
    return f'<nav><strong><a href="/">{html.escape(title)}</a></strong> {items}</nav>'
