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
    "The request is no HTTP, its body is no JSON, a member of an object comes twice, or a header is not what its"
    " specification says. Nothing was done.",
    "Correct the client. The same bytes get the same answer.",
)
INVALID_QUERY = Kind(
    "invalid-query",
    400,
    "The query is not one that this operation takes",
    "The query has a parameter that this operation does not take, or one of its parameters more than once. It is"
    " refused, because an answer to something else than was asked looks like the right one. Nothing was done.",
    "`errors` names each of them in `parameter`. Leave out what the operation does not take; send the others once.",
)
UNAUTHENTICATED = Kind(
    "unauthenticated",
    401,
    "An API key is missing or not valid",
    "This service has API keys, and the request came without one, or with one that is unknown or was revoked. Nothing"
    " was done.",
    "Send `Authorization: Bearer KEY`. `./headrace keys add` makes a key, `./headrace keys list` shows what there is.",
)
FORBIDDEN = Kind(
    "forbidden",
    403,
    "The API key may not do this",
    "The key is valid, and does not have the scope that the request needs. Nothing was done.",
    "Use a key that has the scope which `detail` names. Keys do not change: make one with `./headrace keys add`.",
)
NOT_FOUND = Kind(
    "not-found",
    404,
    "Not found",
    "There is nothing at this path, or it is not this client's. An order that was answered 202 is never 404 for the"
    " client that made it. One that was made without a key, before the service had any, is no client's: a key finds it"
    " that has both `orders:read` and `ops`.",
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
VERSION_MISMATCH = Kind(
    "version-mismatch",
    412,
    "The product has another version than was asked for",
    "None of the ETags in `If-Match` is the product's present one, because it has changed: orders move `qty`, and with"
    " it the ETag. Or one in `If-None-Match` is, or that is `*`. Nothing was changed.",
    "GET the product again, and repeat the change on what you find, with its ETag as `If-Match`.",
)
WEAK_ETAG = Kind(
    "weak-etag",
    412,
    "A weak ETag cannot be used for a change",
    "`If-Match` compares strongly (RFC 9110, section 13.1.1), so a weak ETag, which begins with `W/`, never matches."
    " The product may be just as the client saw it. Nothing was changed.",
    "GET the product, and send its ETag as it is, without `W/`. This service makes strong ETags only: where they arrive"
    " weak, a proxy that changes answers, by compressing them, is between.",
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
    "`Content-Type` does not say that the body is JSON of the sort that this operation takes (for bulk orders, also"
    " NDJSON; for `PATCH`, also a merge patch), or `Content-Encoding` says that it is compressed. Nothing was done.",
    "Send `Content-Type: application/json`, or another that `Accept` lists, and no `Content-Encoding`.",
)
INVALID_VALUE = Kind(
    "invalid-value",
    422,
    "A value is not allowed",
    "The request is well-formed, and one or more of its values are not allowed, or its body has members that the"
    " operation does not know. Nothing was done.",
    "`errors` has all of them: `pointer` is where in the body (RFC 6901), `parameter` which one of the query.",
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
    "This Idempotency-Key came with another request before. The new one was not carried out.",
    "Use a new key for a new request, and the old one only to repeat the old request.",
)
MISDIRECTED = Kind(
    "misdirected",
    421,
    "The Host is not one that this service answers to",
    "This service has no API keys, because only its own machine reaches it. So it answers to names of the loopback"
    " alone: a page of a web site, whose name somebody resolves to this machine, must not read or order anything."
    " Nothing was done.",
    "Use `http://127.0.0.1` or `http://localhost`, with the port. A name that is meant, like that of a proxy on this"
    " machine, goes into `ALLOWED_HOSTS`. Or make keys: `./headrace keys add`.",
)
PRECONDITION_REQUIRED = Kind(
    "precondition-required",
    428,
    "If-Match is required",
    "The request sets `qty`, or all of a product, while orders move `qty` at the same time. Without `If-Match` it would"
    " write over what it has not seen. Nothing was changed.",
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
    "The broker is away, or takes nothing for the moment. The order was not accepted.",
    "Send it again after `Retry-After` seconds.",
)
OVERLOADED = Kind(
    "overloaded",
    503,
    "The service is overloaded",
    "More is waiting than the service may hold, or than this client's share of it: orders, look-ups, reads, bodies on"
    " their way, or connections. Nothing was done; an order was not accepted.",
    "Send it again after `Retry-After` seconds. For an order, those before it will take that long.",
)
OUTCOME_UNKNOWN = Kind(
    "outcome-unknown",
    503,
    "It is unknown whether the request was carried out",
    "The broker or the database did not answer in time whether it has what was sent. Or nobody can say yet what an"
    " earlier request with this `Idempotency-Key` was told: Redis has forgotten it, and the database has not stored the"
    " order yet. `detail` has the cause. It may or may not have been carried out, or may yet be.",
    "An order: send it again with the same Idempotency-Key, which orders once at the most; without one, that may order"
    " twice. A product: GET it before you send the change again.",
)
STORE_UNAVAILABLE = Kind(
    "store-unavailable",
    503,
    "The database is away",
    "The database is away or too slow to answer, and nothing was changed.",
    "Ask again after `Retry-After` seconds.",
)

# ── our fault

INTERNAL_ERROR = Kind(
    "internal-error",
    500,
    "Internal error",
    "A fault of the service. The request may or may not have been carried out.",
    "Tell whoever runs the service; its log has the cause. An order may be sent again with the same Idempotency-Key.",
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in list(globals().values()) if isinstance(kind, Kind)}
"""All kinds, by name."""
