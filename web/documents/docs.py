"""Serves the documents of an API: /openapi.json, the page that shows it, and the pages of the problems.

All are made once, at start, and are public. Nothing in them comes from another host.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import msgspec
from starlette.routing import Route

from web.documents.health_operations import HEALTH_OPERATIONS
from web.documents.health_operations import TAG as HEALTH_TAG
from web.documents.health_operations import TAG_TEXT as HEALTH_TEXT
from web.documents.openapi import openapi_document
from web.documents.problem_pages import index_page, kind_page
from web.documents.resources import CSS, HTML, JAVASCRIPT, JSON, Resource
from web.problems.kinds import KINDS, TYPES
from web.requests.operations import Operation

_STATIC = Path(__file__).parent / "static"
_VENDOR = Path(__file__).parent / "vendor" / "swagger-ui"

_DESCRIPTION = """\
{about}

- Errors are [problems](/docs/problems) (RFC 9457): branch on `type`, show `detail`, look into `errors` for the fields.
  New types may come; treat an unknown one by its status.
- Ids and links are opaque. New members may come in answers; ignore those that you do not know. Whole numbers are
  written without a decimal point and without an exponent.
- What a request has beyond what its operation takes is refused: an unknown member of the body is 422, an unknown query
  parameter is 400, and so is one that comes twice. Only `/livez`, `/readyz` and these pages ignore a query.
- Every `GET` takes `HEAD` too. Other methods of a path are 405, with `Allow`.
- A problem with status 503 has `Retry-After`. A connection that sends too slowly, too much, or no HTTP is closed after
  the answer.
"""


def document_of(
    title: str, about: str, tags: Mapping[str, str], operations: Sequence[Operation], public_path: str
) -> dict[str, Any]:
    """The OpenAPI document of an API with these operations, and the health operations of every process."""
    description = _DESCRIPTION.format(about=about)
    all_operations = (*operations, *HEALTH_OPERATIONS)
    return openapi_document(title, description, {**tags, HEALTH_TAG: HEALTH_TEXT}, all_operations, public_path)


def docs_routes(
    document: Mapping[str, Any], operations: Sequence[Operation], others: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Route]:
    """Routes for all documents. `document`: the OpenAPI document of `operations`. `others`: more of JSON, by path."""
    documents = {"/openapi.json": document, **(others or {})}
    title = document["info"]["title"]
    navigation = _navigation(title, documents)
    resources = {
        **{path: Resource.of(msgspec.json.encode(it), JSON) for path, it in documents.items()},
        "/docs": Resource.of(_viewer(title, navigation), HTML),
        "/docs/docs.css": Resource.of((_STATIC / "docs.css").read_bytes(), CSS),
        "/docs/docs.js": Resource.of((_STATIC / "docs.js").read_bytes(), JAVASCRIPT),
        "/docs/swagger-ui.css": Resource((_VENDOR / "swagger-ui.css.gz").read_bytes(), CSS),
        "/docs/swagger-ui-bundle.js": Resource((_VENDOR / "swagger-ui-bundle.js.gz").read_bytes(), JAVASCRIPT),
        TYPES: Resource.of(index_page(navigation), HTML),
        **{it.type: Resource.of(kind_page(it, operations, navigation), HTML) for it in KINDS.values()},
    }
    return [Route(path, resource, methods=["GET"]) for path, resource in resources.items()]


def _viewer(title: str, navigation: str) -> bytes:
    page = Template((_STATIC / "docs.html").read_text())
    return page.substitute(title=html.escape(title), navigation=navigation).encode()


def _navigation(title: str, documents: Mapping[str, Any]) -> str:
    links = {"/docs": "Operations", TYPES: "Problems", **{path: path.removeprefix("/") for path in documents}}
    items = " ".join(f'<a href="{path}">{html.escape(text)}</a>' for path, text in links.items())
    return f"<nav><strong>{html.escape(title)}</strong> {items}</nav>"
