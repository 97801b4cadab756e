"""The operations of an API as data: web.requests.routes makes its routes from them, web.documents its OpenAPI."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from web.problems.kinds import Kind


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a request, in its path, query or headers."""

    name: str
    place: Literal["path", "query", "header"]
    type: Any
    """A type for msgspec. It says what is allowed; the problems say what happens to other values."""
    description: str
    """Markdown, like all descriptions."""
    example: Any
    is_required: bool = False
    is_filled_in: bool = False
    """Whether the page at /docs fills the example in, because it works as it is."""
    is_list: bool = False
    """Whether it may come several times, in the query: once for each element."""


@dataclass(frozen=True, slots=True)
class Header:
    """A header of an answer."""

    name: str
    type: Any
    description: str
    example: Any
    is_always_there: bool = False


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several structs, which msgspec could not tell apart when decoding."""

    types: tuple[type, ...]


@dataclass(frozen=True, slots=True)
class ArrayOf:
    """An array whose elements are of one of several structs, as in OneOf."""

    items: tuple[type, ...]
    min_items: int
    max_items: int


@dataclass(frozen=True, slots=True)
class Content:
    """A body in one media type."""

    type: Any
    """A type for msgspec; or a OneOf or an ArrayOf; or `str` for a body that is not JSON."""
    examples: Mapping[str, Any]
    """Named after what each shows. At least one, of JSON values and structs."""
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Link:
    """An operation that a client can call next with a value from the answer."""

    operation_id: str
    parameter: str
    """The next operation's parameter that takes the value."""
    expression: str
    """A runtime expression of OpenAPI: where in the answer the value is."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which an operation succeeds."""

    status: int
    description: str
    contents: tuple[Content, ...] = ()
    headers: tuple[Header, ...] = ()
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: str
    """In the form of Starlette and OpenAPI: `/products/{product_id}`."""
    needs: str
    """A scope of web.access.clients, or PUBLIC or ANY_KEY."""
    # The fields below are for the documents, and for checking queries and media types.
    tag: str = ""
    summary: str = ""
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: tuple[Content, ...] = ()
    """The bodies that it takes, one for each media type."""
    is_body_optional: bool = False
    answers: tuple[Answer, ...] = ()
    problems: tuple[Kind, ...] = ()
    """Besides the problems that all operations of its sort have: see web.documents.openapi."""

    ignores_query: bool = False
    """For probes alone: a probe that adds its own query must not find the process dead."""

    @cached_property
    def media_types(self) -> tuple[str, ...]:
        """The media types of the bodies that it takes."""
        return tuple(content.media_type for content in self.body)
