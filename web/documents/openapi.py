"""The OpenAPI 3.1 document of an API, made from its table of operations and the msgspec types in it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from pipeline.process.version import project_version
from web.access.clients import ANY_KEY, PUBLIC
from web.documents.json_schema import REF, Schema, schemas_of
from web.documents.problem_examples import example_of, other_examples_of
from web.problems import kinds
from web.problems.kinds import Kind
from web.problems.problems import MEDIA_TYPE, FieldError
from web.requests import http_fields
from web.requests.operations import Answer, ArrayOf, Content, Header, Link, OneOf, Operation, Parameter


class ProblemDetails(msgspec.Struct, omit_defaults=True):
    """An error (RFC 9457). Each `type` is for ever, and resolves to a page that says what to do."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None


_BEARER = "apiKey"

# Any request can get these answers, whatever it asks for.
ANYWHERE = (
    kinds.MALFORMED,
    kinds.TOO_SLOW,
    kinds.MISDIRECTED,
    kinds.HEAD_TOO_LARGE,
    kinds.OVERLOADED,
    kinds.INTERNAL_ERROR,
)
_WITH_BODY = (kinds.TOO_LARGE, kinds.NOT_JSON, kinds.INVALID_VALUE)

_HEADERS: Mapping[Kind, tuple[Header, ...]] = {
    kinds.UNAUTHENTICATED: (http_fields.WWW_AUTHENTICATE,),
    kinds.FORBIDDEN: (http_fields.WWW_AUTHENTICATE,),
    kinds.NOT_JSON: (http_fields.ACCEPT, http_fields.ACCEPT_PATCH, http_fields.ACCEPT_ENCODING),
    kinds.REQUEST_IN_FLIGHT: (http_fields.RETRY_AFTER,),
    kinds.TOO_MANY_REQUESTS: (http_fields.RETRY_AFTER,),
    kinds.BROKER_UNAVAILABLE: (http_fields.RETRY_AFTER,),
    kinds.OVERLOADED: (http_fields.RETRY_AFTER,),
    kinds.OUTCOME_UNKNOWN: (http_fields.RETRY_AFTER,),
    kinds.STORE_UNAVAILABLE: (http_fields.RETRY_AFTER,),
}

_LIMITS = (http_fields.RATE_LIMIT_POLICY, http_fields.RATE_LIMIT)
# Answered before the client is known, or by code that does not know of limits.
_UNLIMITED = (
    kinds.UNAUTHENTICATED,
    kinds.FORBIDDEN,
    kinds.MISDIRECTED,
    kinds.HEAD_TOO_LARGE,
    kinds.INTERNAL_ERROR,
)

_encoder = msgspec.json.Encoder(decimal_format="number")


def openapi_document(
    title: str, description: str, tags: Mapping[str, str], operations: Sequence[Operation], public_path: str = ""
) -> dict[str, Any]:
    """The document, for msgspec to encode; examples are bytes of JSON already. `tags`: what each groups."""
    schemas = _Schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": project_version(),
            "description": description,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": public_path or "/", "description": "The host that this page is from"}],
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": {_BEARER: _bearer()}},
    }


def problems_of(operation: Operation) -> list[Kind]:
    """All kinds of problem that the operation may answer, by status."""
    found = {*ANYWHERE, *operation.problems}
    if operation.needs != PUBLIC:
        found.add(kinds.UNAUTHENTICATED)
        if operation.needs != ANY_KEY:
            found.add(kinds.FORBIDDEN)
    if not operation.ignores_query:
        found.add(kinds.INVALID_QUERY)
    if operation.body:
        found |= {*_WITH_BODY}
    if any(it.place == "query" for it in operation.parameters):
        found.add(kinds.INVALID_VALUE)
    return sorted(found, key=lambda kind: (kind.status, kind.name))


def _headers_of(operation: Operation, it: Answer | Kind) -> tuple[Header, ...]:
    """The headers of an answer or problem. Where a key's limit counts, good and bad ones tell what is left of it."""
    own = it.headers if isinstance(it, Answer) else _HEADERS.get(it, ())
    return (*own, *_LIMITS) if kinds.TOO_MANY_REQUESTS in operation.problems and it not in _UNLIMITED else own


class _Schemas:
    """The schemas of all types in a table. Types that only answers have forbid additional properties."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        asked = [type_ for it in operations for type_ in _asked(it)]
        types = [*asked, *(type_ for it in operations for type_ in _answered(it)), ProblemDetails]
        schemas, self.components = schemas_of(types)
        # By identity: a type with metadata need not be hashable. They live as long as their table.
        self._by_type = {id(type_): schema for type_, schema in zip(types, schemas, strict=True)}
        for name in self.components.keys() - schemas_of(asked)[1].keys():
            self.components[name]["additionalProperties"] = False

    def of(self, type_: Any) -> Schema:
        if isinstance(type_, ArrayOf):
            bounds = {"minItems": type_.min_items, "maxItems": type_.max_items}
            return {"type": "array", "items": self._one_of(type_.items), **bounds}
        return self._one_of(type_.types) if isinstance(type_, OneOf) else self._by_type[id(type_)]

    def _one_of(self, types: Sequence[type]) -> Schema:
        schemas = [self._by_type[id(it)] for it in types]
        return schemas[0] if len(schemas) == 1 else {"oneOf": schemas}


def _asked(operation: Operation) -> Iterable[Any]:
    yield from (it.type for it in operation.parameters)
    for content in operation.body:
        yield from _types_in(content)


def _answered(operation: Operation) -> Iterable[Any]:
    for answer in operation.answers:
        for content in answer.contents:
            yield from _types_in(content)
    answered: list[Answer | Kind] = [*operation.answers, *problems_of(operation)]
    for it in answered:
        yield from (header.type for header in _headers_of(operation, it))


def _types_in(content: Content) -> tuple[Any, ...]:
    if isinstance(content.type, ArrayOf):
        return content.type.items
    return content.type.types if isinstance(content.type, OneOf) else (content.type,)


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": f"{operation.description}\n\n{_access(operation.needs)}".strip(),
        "security": [] if operation.needs == PUBLIC else [{_BEARER: []}],
        "parameters": [_parameter(it, schemas) for it in operation.parameters],
    }
    if operation.body:
        described["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": _contents(operation.body, schemas),
        }
    described["responses"] = _responses(operation, schemas)
    return described


def _access(needs: str) -> str:
    if needs == PUBLIC:
        return "**Access:** open to everybody."
    which = "any API key" if needs == ANY_KEY else f"an API key with the scope `{needs}`"
    return f"**Access:** {which}, where the service has keys."


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": schemas.of(parameter.type) | {"examples": [parameter.example]},
    }
    # The page sends the parameter's own example without being asked, and the schema's never.
    return described | {"example": parameter.example} if parameter.is_filled_in else described


def _contents(contents: Iterable[Content], schemas: _Schemas) -> dict[str, Any]:
    return {
        it.media_type: {
            "schema": schemas.of(it.type),
            "examples": {_slug(what): {"summary": what, "value": _raw(value)} for what, value in it.examples.items()},
        }
        for it in contents
    }


def _responses(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    responses = {it.status: _answer(operation, it, schemas) for it in operation.answers}
    for status, same in groupby(problems_of(operation), key=lambda kind: kind.status):
        refusal = _refusal(operation, list(same), schemas)
        responses[status] = _either(responses[status], refusal) if status in responses else refusal
    return {str(status): responses[status] for status in sorted(responses)}


def _either(answer: dict[str, Any], refusal: dict[str, Any]) -> dict[str, Any]:
    both = {part: answer.get(part, {}) | refusal.get(part, {}) for part in ("headers", "content")}
    return {"description": f"{answer['description']} Or: {refusal['description']}", **both}


def _answer(operation: Operation, answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if headers := _headers_of(operation, answer):
        described["headers"] = {it.name: _header(it, schemas) for it in headers}
    if answer.contents:
        described["content"] = _contents(answer.contents, schemas)
    if answer.links:
        described["links"] = {it.operation_id: _link(it) for it in answer.links}
    return described


def _link(link: Link) -> dict[str, Any]:
    return {"operationId": link.operation_id, "parameters": {link.parameter: link.expression}}


def _refusal(operation: Operation, same_status: Sequence[Kind], schemas: _Schemas) -> dict[str, Any]:
    status = same_status[0].status
    schema = {
        "$ref": REF.format(name=ProblemDetails.__name__),
        "properties": {"type": {"enum": [it.type for it in same_status]}, "status": {"const": status}},
    }
    examples = {it.name: {"summary": it.title, "value": example_of(it)} for it in same_status}
    for it in same_status:
        for cause, body in other_examples_of(it).items():
            examples[f"{it.name}-{_slug(cause)}"] = {"summary": f"{it.title}: {cause}", "value": body}
    described: dict[str, Any] = {
        "description": " Or: ".join(f"{it.title} ([{it.name}]({it.type}))." for it in same_status),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    headers = {header.name: header for it in same_status for header in _headers_of(operation, it)}
    if headers:
        described["headers"] = {name: _header(it, schemas) for name, it in headers.items()}
    return described


def _header(header: Header, schemas: _Schemas) -> dict[str, Any]:
    return {
        "description": header.description,
        "required": header.is_always_there,
        "schema": schemas.of(header.type),
        "example": header.example,
    }


def _bearer() -> dict[str, str]:
    return {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "hr_<id>_<secret>",
        "description": "An API key; `./headrace keys add` makes one. A service without keys is open, and needs none.",
    }


def _raw(value: Any) -> msgspec.Raw:
    """The value encoded as the services do, so that prices have the digits that a client sees."""
    return msgspec.Raw(_encoder.encode(value))


def _slug(text: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in text.lower()).strip("-")
