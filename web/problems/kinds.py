"""Every kind of error that the two APIs answer: its stable `type`, and the page that the type resolves to.

web/problems/problems.py makes the `detail` and `errors` of an occurrence. What is here never changes for a client: a
name, once answered, keeps its meaning.
"""

from dataclasses import dataclass

TYPES = "/docs/problems"


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    """The stable last part of `type`."""
    status: int
    title: str
    meaning: str
    """What has happened, for readers of the kind's page."""
    remedy: str
    """What the client should do now."""

    @property
    def type(self) -> str:
        """A URI reference that resolves to the kind's page on the host that answered."""
        return f"{TYPES}/{self.name}"


# ── the caller's fault

MALFORMED = Kind(
    "malformed",
    400,
    "The request is malformed",
    "The request is not valid HTTP, its body is not valid JSON, an object has a member twice, or a header breaks its"
    " specification or has no use in this request. Nothing was done.",
    "Correct the client. The same bytes get the same answer.",
)
INVALID_QUERY = Kind(
    "invalid-query",
    400,
    "The query is not one that this operation takes",
    "The query has a parameter that this operation does not take, or has a parameter more than once. The service"
    " refuses it, because a filter that it ignored would look applied. Nothing was done.",
    "`errors` names each of them in `parameter`. Leave out what the operation does not take; send the others once.",
)
UNAUTHENTICATED = Kind(
    "unauthenticated",
    401,
    "An API key is missing or not valid",
    "This service asks for an API key. The request has none, or one that is unknown or revoked. Nothing was done.",
    "Send `Authorization: Bearer KEY`. `./headrace keys add` makes a key, `./headrace keys list` lists them.",
)
FORBIDDEN = Kind(
    "forbidden",
    403,
    "The API key may not do this",
    "The key is valid, but lacks the scope that the request needs. Nothing was done.",
    "Use a key with the scope that `detail` names. A key's scopes never change: `./headrace keys add` makes another"
    " key.",
)
NOT_FOUND = Kind(
    "not-found",
    404,
    "Not found",
    "Nothing is at this path, or it belongs to another client. A client that got a 202 for an order never gets a 404"
    " for it. An order that was made while the service had no keys belongs to no client. A key with both `orders:read`"
    " and `ops` finds it.",
    "Check the path and the id. Paths have no slash at their end.",
)
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed",
    405,
    "Method not allowed",
    "The path exists and does not take this method.",
    "Use one of the methods in the `Allow` header.",
)
TOO_SLOW = Kind(
    "too-slow",
    408,
    "The request came too slowly",
    "The head or the body of the request was not complete within its deadline. Nothing was done, and the connection was"
    " closed.",
    "Send the request in one go, over a new connection.",
)
OUT_OF_STOCK = Kind(
    "out-of-stock",
    409,
    "The product is sold out",
    "The last unit of the product was sold. The order was not accepted, and its Idempotency-Key is free again.",
    "Order again once the product is restocked.",
)
REQUEST_IN_FLIGHT = Kind(
    "request-in-flight",
    409,
    "The request is being carried out",
    "An earlier request with this Idempotency-Key has not been answered yet.",
    "Send the same request again after `Retry-After` seconds: it gets the answer of the first.",
)
CURSOR_UNKNOWN = Kind(
    "cursor-unknown",
    410,
    "The cursor is of another event log",
    "The cursor is not of the event log that this service has now, or lies behind its end. So the database was restored"
    " from a backup, or is another one. No event was skipped or given twice.",
    "Begin again: with `after=now`, or with a time before the last event that you have, as in"
    " `after=2026-01-05T09:30:00Z`. Drop the events whose `id` you have seen.",
)
VERSION_MISMATCH = Kind(
    "version-mismatch",
    412,
    "The product has another version than was asked for",
    "The product has changed since the client read it, so `If-Match` does not have its current ETag. Orders change"
    " `qty`, and with it the ETag. Or `If-None-Match` has the current ETag, or is `*`. Nothing was changed.",
    "GET the product again, and repeat the change on what you find, with its ETag as `If-Match`.",
)
WEAK_ETAG = Kind(
    "weak-etag",
    412,
    "A weak ETag cannot be used for a change",
    "`If-Match` compares strongly (RFC 9110, section 13.1.1), so a weak ETag, which begins with `W/`, never matches."
    " The product may be just as the client saw it. Nothing was changed.",
    "GET the product, and send its ETag as it is, without `W/`. This service sends strong ETags only. If they arrive"
    " weak, a proxy in between changes the answers, for example by compressing them.",
)
TOO_LARGE = Kind(
    "too-large",
    413,
    "The body is too large",
    "The body is larger than this path takes. It was not read to its end, nothing was done, and the connection was"
    " closed.",
    "Send less at once.",
)
NOT_JSON = Kind(
    "not-json",
    415,
    "The body is not JSON",
    "`Content-Type` names no media type that this operation takes: JSON, for bulk orders also NDJSON, for `PATCH` also"
    " a merge patch. Or `Content-Encoding` says that the body is compressed. Nothing was done.",
    "Send `Content-Type: application/json`, or another that `Accept` lists, and no `Content-Encoding`.",
)
INVALID_VALUE = Kind(
    "invalid-value",
    422,
    "A value is not allowed",
    "The request is well-formed, but one or more of its values are not allowed, or its body has members that the"
    " operation does not know. Nothing was done.",
    "`errors` lists all of them: `pointer` says where in the body (RFC 6901), `parameter` names one of the query.",
)
UNKNOWN_PRODUCT = Kind(
    "unknown-product",
    422,
    "The product does not exist",
    "There is no product with this id, or it was deleted. The order was not accepted.",
    "Take the id of a product from `GET /products`.",
)
KEY_REUSED = Kind(
    "key-reused",
    422,
    "The Idempotency-Key was used before",
    "An earlier, different request had this Idempotency-Key. This request was not carried out.",
    "Use a new key for a new request. Send the old key only with the same request again.",
)
MISDIRECTED = Kind(
    "misdirected",
    421,
    "The Host is not one that this service answers to",
    "This service has no API keys, because only its own machine reaches it. So it answers to loopback names only."
    " Otherwise a web site could resolve its own name to this machine, and its pages could read and order here (DNS"
    " rebinding). Nothing was done.",
    "Use `http://127.0.0.1` or `http://localhost`, with the port. To allow another name, like that of a proxy on this"
    " machine, add it to `ALLOWED_HOSTS`. Or make keys: `./headrace keys add`.",
)
PRECONDITION_REQUIRED = Kind(
    "precondition-required",
    428,
    "If-Match is required",
    "The request sets `qty`, or a whole product, while orders change `qty` at the same time. Without `If-Match` it"
    " could overwrite a change that the client has not seen. Nothing was changed.",
    "GET the product, and send its `ETag` as `If-Match`. To add units, `POST …/restock`; to overwrite whatever is"
    " there, `If-Match: *`.",
)
TOO_MANY_REQUESTS = Kind(
    "too-many-requests",
    429,
    "The API key's limit is reached",
    "This client sends more orders per second than its key allows. The order was not accepted.",
    "Send it again after `Retry-After` seconds. `RateLimit-Policy` has the limit, `RateLimit` what is left of it.",
)
HEAD_TOO_LARGE = Kind(
    "head-too-large",
    431,
    "The headers are too large",
    "The request line and the headers are larger than the service takes.",
    "Send fewer or shorter headers.",
)

# ── the world's fault

BROKER_UNAVAILABLE = Kind(
    "broker-unavailable",
    503,
    "The order was not accepted",
    "The broker cannot be reached, or refuses messages for the moment. The order was not accepted, or not cancelled.",
    "Send it again after `Retry-After` seconds.",
)
OVERLOADED = Kind(
    "overloaded",
    503,
    "The service is overloaded",
    "Too much is waiting already, in the whole service or for this client: orders, look-ups, reads, unfinished bodies"
    " or connections. Nothing was done; an order was not accepted, and not cancelled.",
    "Send it again after `Retry-After` seconds. For an order, that is how long the orders before it will take.",
)
OUTCOME_UNKNOWN = Kind(
    "outcome-unknown",
    503,
    "It is unknown whether the request was carried out",
    "The broker or the database did not confirm the request in time. Or the answer to an earlier request with this"
    " `Idempotency-Key` is not known yet: Redis has lost it, and the database has not stored the order yet. `detail`"
    " has the cause. The request may have been carried out, may yet be, or may not.",
    "For an order, send it again with the same Idempotency-Key: that makes one order at most. Without a key, it may"
    " make a second order. A cancellation may be sent again as it is. For a product, GET it before you send the change"
    " again.",
)
STORE_UNAVAILABLE = Kind(
    "store-unavailable",
    503,
    "The database is away",
    "The database cannot be reached, or is too slow to answer. Nothing was changed.",
    "Ask again after `Retry-After` seconds.",
)

# ── our fault

INTERNAL_ERROR = Kind(
    "internal-error",
    500,
    "Internal error",
    "A fault of the service. The request may or may not have been carried out.",
    "Tell the operator of the service; its log has the cause. An order may be sent again with the same"
    " Idempotency-Key.",
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in list(globals().values()) if isinstance(kind, Kind)}
"""All kinds, by name."""
