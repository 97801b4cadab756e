"""Parameters and headers that several operations share, as the documents describe them."""

from typing import Annotated

from msgspec import Meta

from web.requests.operations import Header, Parameter
from web.requests.paging import DEFAULT_LIMIT, MAX_LIMIT
from web.requests.preconditions import TAG

# ── of requests

IF_MATCH = Parameter(
    "If-Match",
    "header",
    Annotated[str, Meta(pattern=rf"^(\*|{TAG}([ \t]*,[ \t]*{TAG})*)$")],
    "The ETag of the version that the change is meant for, or `*` for whatever is there (RFC 9110). Another version is"
    " 412, and so is a weak ETag, `W/…`.",
    '"3"',
)
IF_MATCH_REQUIRED = Parameter(
    IF_MATCH.name,
    "header",
    IF_MATCH.type,
    f"{IF_MATCH.description} Without it, 428.",
    IF_MATCH.example,
    is_required=True,
)
IF_NONE_MATCH = Parameter(
    "If-None-Match",
    "header",
    str,
    "The ETag of what the client has already: 304 if that is still the present version.",
    '"3"',
)
IF_NONE_MATCH_CHANGE = Parameter(
    IF_NONE_MATCH.name,
    "header",
    str,
    "Versions that the change is not meant for: ETags, or `*` for any. 412 if the present one is among them.",
    '"2"',
)
TRACEPARENT = Parameter(
    "traceparent",
    "header",
    str,
    "W3C Trace Context. It travels with the order through all processes. A malformed one is ignored.",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
LIMIT = Parameter(
    "limit",
    "query",
    Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
    f"How many at the most; {DEFAULT_LIMIT} if it is left out.",
    DEFAULT_LIMIT,
)
BEFORE = Parameter(
    "before",
    "query",
    str,
    "Where the page begins: from the `Link` of the page before, unchanged.",
    "MjAyNi0wMS0wNVQwOTozMDowMCswMDowMCAwMWEyMDI2MS01YzQwLTdiNmUtOWYwYS0zZDVjMWU4YTdiNDI",
)

# ── of answers

_Seconds = Annotated[int, Meta(ge=1)]

RETRY_AFTER = Header("Retry-After", _Seconds, "Seconds until it makes sense to send the request again.", 2)
ACCEPT = Header("Accept", str, "The media types that would do.", "application/json")
ACCEPT_PATCH = Header("Accept-Patch", str, "The same (RFC 5789). Only to `PATCH`.", "application/json")
ACCEPT_ENCODING = Header("Accept-Encoding", str, "There if the body was compressed.", "identity")
ETAG = Header("ETag", str, "The product's version. Every change moves it, and so do orders.", '"3"', True)
LINK = Header(
    "Link",
    str,
    'The next page, `rel="next"` (RFC 8288). Not there on the last one.',
    '</products?limit=50&before=MjAyNi…>; rel="next"',
)
WWW_AUTHENTICATE = Header(
    "WWW-Authenticate",
    str,
    "RFC 6750: `error` is `invalid_token` for a key that is none, `insufficient_scope` for one that may not do this;"
    " without any key there is no `error`.",
    'Bearer realm="headrace"',
    is_always_there=True,
)
RATE_LIMIT_POLICY = Header(
    "RateLimit-Policy",
    str,
    "The key's limit, `q` orders in `w` seconds (draft-ietf-httpapi-ratelimit-headers-10). Only if it has one.",
    '"orders";q=100;w=1',
)
RATE_LIMIT = Header(
    "RateLimit", str, "What is left: `r` orders, for the next `t` seconds. Only for limited keys.", '"orders";r=42;t=1'
)
