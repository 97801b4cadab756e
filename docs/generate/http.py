"""The reference of both HTTP APIs, from their OpenAPI documents."""

from collections.abc import Iterator
from typing import Any

import msgspec

import ingest_api.documents.documents
import product_api.documents
from docs.generate.table import table

Json = dict[str, Any]
_HEAD = """\
# {title}

[Download the OpenAPI document]({file}). A running service has it at `/openapi.json`, and lets you try it at `/docs`.
[Problems](problems.md) explains each error.
"""


def document(name: str) -> Json:
    """The OpenAPI document of `orders` or `products`."""
    made = ingest_api.documents.documents.openapi() if name == "orders" else product_api.documents.openapi()
    read: Json = msgspec.json.decode(msgspec.json.encode(made))
    return read


def formatted(document: Json) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def page(name: str) -> str:
    openapi = document(name)
    title = {"orders": "HTTP: orders", "products": "HTTP: products"}[name]
    parts = [_HEAD.format(title=title, file=f"openapi-{name}.json")]
    for path, operations in openapi["paths"].items():
        parts += [_operation(method, path, it, openapi) for method, it in operations.items()]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Json, openapi: Json) -> str:
    parts = [f"## {operation['summary']}\n", f"`{method.upper()} {path}`\n", f"{_unlinked(operation['description'])}\n"]
    if parameters := operation.get("parameters"):
        rows = ((f"`{it['name']}`", it["in"], _type_of(it["schema"]), it.get("description", "")) for it in parameters)
        parts += [table(("parameter", "in", "type", "meaning"), rows)]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts += [f"Body, `{media}`:\n", _body(content["schema"], openapi)]
    answers = ((status, _unlinked(it["description"])) for status, it in operation["responses"].items())
    return "\n".join([*parts, "Answers:\n", table(("status", "meaning"), answers)])


def _body(schema: Json, openapi: Json) -> str:
    """The members of an object, of the objects of an array, or of the alternatives."""
    rows = list(_members(schema, openapi))
    return table(("member", "type", "meaning"), rows) if rows else f"{_type_of(schema)}\n"


def _members(schema: Json, openapi: Json) -> Iterator[tuple[str, ...]]:
    if reference := schema.get("$ref"):
        schema = openapi["components"]["schemas"][reference.rsplit("/", 1)[1]]
    if "items" in schema:
        yield from _members(schema["items"], openapi)
    required = schema.get("required", ())
    for name, it in schema.get("properties", {}).items():
        mark = ", required" if name in required else ""
        yield f"`{name}`", f"{_type_of(it)}{mark}", it.get("description", "")


def _type_of(schema: Json) -> str:
    if reference := schema.get("$ref"):
        return str(reference.rsplit("/", 1)[1])
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type_of(it) for it in alternatives)
    if "enum" in schema:
        return ", ".join(f"`{it}`" for it in schema["enum"])
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = f", {least:,} to {most:,}" if least is not None and most is not None else ""
    return f"{schema.get('format') or schema.get('type', 'any')}{limits}"


def _unlinked(text: str) -> str:
    """The text with links to pages of a running service turned into links to this reference."""
    return text.replace("](/docs/problems/", "](problems.md#").replace("](/docs/problems)", "](problems.md)")
