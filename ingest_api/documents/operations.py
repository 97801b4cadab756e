"""The operations of ingest_api: the one table from which its routes and its OpenAPI document are made."""

from dataclasses import replace
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from ingest_api.documents import order_examples as examples
from ingest_api.documents.cancel_operation import CANCEL_ORDER
from ingest_api.documents.event_examples import CANCELLED
from ingest_api.documents.event_operations import LIST_EVENTS
from ingest_api.documents.list_parameters import ABOUT_LISTS, LIST_PARAMETERS
from ingest_api.documents.order_fields import LOCATION, ORDER_ID, ORDERS, SOURCE, TAG
from ingest_api.intake.bulk import MAX_ALL_LINES, MAX_ORDERS
from ingest_api.requests import BasketRequest, OrderRequest
from pipeline.contract.fields import (
    EXAMPLE_PRODUCT,
    ProductId,
)
from pipeline.contract.order_view import OrderView
from pipeline.contract.orders import ANSWERED, Basket, Order
from pipeline.contract.reasons import table_rows
from web.access.clients import ORDERS_READ, ORDERS_WRITE
from web.documents.openapi import ProblemDetails
from web.documents.problem_examples import example_of
from web.problems import kinds
from web.requests import http_fields
from web.requests.idempotency_keys import REPLAYED, key_parameter
from web.requests.operations import Answer, ArrayOf, Content, Link, OneOf, Operation, Parameter
from web.requests.waits import MAX_WAIT_S
from web.serving.body import NDJSON

ACCEPTED = 202
"""The status of an accepted order, unless the service is set to answer 201."""

TAG_TEXT = "Accepted at once, decided a moment later."

_VERDICTS = "\n".join(
    [
        "An order is `PENDING` until it is decided, then `PROCESSED`, or `FAILED` with a `reason`.",
        "Its client may take it back: then it is `CANCELLED`.",
        "`final` says whether that stays so. A verdict does, unless the client cancels a `PROCESSED` order:\n",
        "| reason | |",
        "|---|---|",
        *table_rows(verdicts=True),
        "\nFor other reasons the order is a dead letter, and `final` is false: no fault of the client.",
        "An operator fixes the cause and replays it, after which it may be `PROCESSED`; or discards it for ever.\n",
        "| reason | |",
        "|---|---|",
        *table_rows(verdicts=False),
    ]
)


# ── types of answers


def _answered_fields(kind: type[Order | Basket]) -> list[tuple[str, Any] | tuple[str, Any, None]]:
    """The fields of an order that clients see, with `status` behind those that are always there."""
    hints = get_type_hints(kind, include_extras=True)
    required = [it.name for it in msgspec.structs.fields(kind) if it.required]
    answered = [it for it in kind.__struct_fields__ if it in _ANSWERED]
    return [
        *((name, hints[name]) for name in answered if name in required),
        ("status", Literal["PENDING"]),
        *((name, hints[name], None) for name in answered if name not in required),
    ]


_ANSWERED = {"lines", *(it.member for it in ANSWERED)}

AcceptedOrder = msgspec.defstruct(
    "AcceptedOrder",
    _answered_fields(Order),
    namespace={"__doc__": "An order of one product as it was accepted: its price is fixed, its stock not yet taken."},
)
AcceptedBasket = msgspec.defstruct(
    "AcceptedBasket",
    _answered_fields(Basket),
    namespace={"__doc__": "An order of lines as it was accepted: its prices are fixed, its stock not yet taken."},
)

_REFUSED = example_of(kinds.OUT_OF_STOCK)

# ── parameters and headers

_KEY = key_parameter(
    "Makes the request safe to send again: however often, it is one order, whatever happens (draft-ietf-httpapi-"
    "idempotency-key-header-07). Every answer names the price and the time that are stored. 1 to 255 visible ASCII"
    " characters, bare or in quotes; UUIDv7 keys are best, because they keep the ids of orders in the order of time."
)
# Of a demo product, so that the example works as it is.
_PRODUCT_ID = Parameter(
    "product_id", "path", ProductId, "The product's id.", EXAMPLE_PRODUCT, is_required=True, is_filled_in=True
)
_WAIT = Parameter(
    "wait",
    "query",
    Annotated[float, Meta(ge=0, le=MAX_WAIT_S)],
    "Seconds to hold the answer until the order is decided; fractions are allowed. If it is not decided by then, the"
    " answer is what is known.",
    5,
)
_DURABLE = "What was accepted is on disk in the broker and will be decided, whatever fails from here on."
_NOT_ACCEPTED = (
    kinds.REQUEST_IN_FLIGHT,
    kinds.KEY_REUSED,
    kinds.TOO_MANY_REQUESTS,
    kinds.BROKER_UNAVAILABLE,
    kinds.OUTCOME_UNKNOWN,
)

_ACCEPT_ORDER = Operation(
    "acceptOrder",
    "POST",
    ORDERS,
    ORDERS_WRITE,
    TAG,
    "Order one product, or several",
    "Accepts an order at the present prices. It is for one product, or has `lines`: then all of them are delivered, or"
    " none. The stock is taken a moment later: read the order at `Location`,"
    " with `wait`, for the verdict.\n\nIf the answer is lost, or is `outcome-unknown`, send the request again with the"
    " same `Idempotency-Key`. Without one, that may order twice.",
    parameters=(_KEY, http_fields.TRACEPARENT),
    body=(
        Content(
            OneOf((OrderRequest, BasketRequest)),
            {
                "Two units": examples.REQUEST,
                "Two products": examples.BASKET_REQUEST,
                "With details of the client's own": examples.DETAILED_REQUEST,
            },
        ),
    ),
    answers=(
        Answer(
            ACCEPTED,
            f"Accepted. {_DURABLE}",
            (
                Content(
                    OneOf((AcceptedOrder, AcceptedBasket)),
                    {
                        "Accepted": examples.ACCEPTED,
                        "Two products": examples.BASKET,
                        "With the client's details": examples.DETAILED,
                    },
                ),
            ),
            (LOCATION, REPLAYED),
            (Link("getOrder", "order_id", "$response.body#/id"),),
        ),
    ),
    problems=(*_NOT_ACCEPTED, kinds.OUT_OF_STOCK, kinds.UNKNOWN_PRODUCT, kinds.STORE_UNAVAILABLE),
)

_ACCEPT_ORDERS = Operation(
    "acceptOrders",
    "POST",
    f"{ORDERS}/bulk",
    ORDERS_WRITE,
    TAG,
    "Order many at once",
    f"1 to {MAX_ORDERS} orders, as a JSON array or as NDJSON with one order on each line. Each is judged by itself: the"
    " answer has the order or the problem of each, in the order that they came in; the pointer of a problem begins with"
    " the place, as in `#/3/quantity`. Those that are good are accepted together, or, if the whole request is answered"
    f" with a problem, none of them is. All orders together may have {MAX_ALL_LINES:,} lines.\n\nCounts as that many"
    " orders against the key's limit, an order with `lines` as one for each; and as none if it cannot be read.",
    parameters=(_KEY, http_fields.TRACEPARENT),
    body=(
        Content(
            ArrayOf((OrderRequest, BasketRequest), 1, MAX_ORDERS),
            {"Two orders": [examples.REQUEST, examples.REQUEST | {"quantity": 1}]},
        ),
        *(Content(str, {"Two orders, on two lines": examples.NDJSON}, name) for name in NDJSON),
    ),
    answers=(
        Answer(
            ACCEPTED,
            f"At least one was accepted. {_DURABLE}",
            (
                Content(
                    ArrayOf((AcceptedOrder, AcceptedBasket, ProblemDetails), 1, MAX_ORDERS),
                    {"One of two": [examples.ACCEPTED, _REFUSED]},
                ),
            ),
            (REPLAYED,),
        ),
        Answer(
            422,
            "None was accepted.",
            (Content(ArrayOf((ProblemDetails,), 1, MAX_ORDERS), {"None of one": [_REFUSED]}),),
        ),
    ),
    problems=_NOT_ACCEPTED,
)

_LIST_ORDERS = Operation(
    "listOrders",
    "GET",
    ORDERS,
    ORDERS_READ,
    TAG,
    "List, search, or read several orders",
    ABOUT_LISTS,
    parameters=LIST_PARAMETERS,
    answers=(
        Answer(
            200,
            "A page of orders, or the orders with these ids.",
            (
                Content(
                    list[OrderView],
                    {"Two orders": [examples.PROCESSED, examples.FAILED], "None here, perhaps below": []},
                ),
            ),
            (http_fields.LINK, replace(SOURCE, is_always_there=False)),
        ),
    ),
    problems=(kinds.STORE_UNAVAILABLE,),
)

_LIST_ORDERS_OF_PRODUCT = Operation(
    "listOrdersOfProduct",
    "GET",
    f"{ORDERS}/product/{{product_id}}",
    ORDERS_READ,
    TAG,
    "List the orders of a product",
    "As `GET /api/v1/orders?product=`, `next` included. The first page comes from a cache, and may be two seconds old."
    " Of a product that does not exist there are none.",
    parameters=(_PRODUCT_ID, http_fields.LIMIT, http_fields.BEFORE),
    answers=(
        Answer(
            200,
            "A page of orders.",
            (Content(list[OrderView], {"Two orders": [examples.PROCESSED, examples.FAILED]}),),
            (http_fields.LINK,),
        ),
    ),
    problems=(kinds.NOT_FOUND, kinds.STORE_UNAVAILABLE),
)

_GET_ORDER = Operation(
    "getOrder",
    "GET",
    f"{ORDERS}/{{order_id}}",
    ORDERS_READ,
    TAG,
    "Read an order",
    "From the moment that it was accepted. One that is not stored yet is `PENDING`, with `id`, `status`, `final` alone."
    " An order of another client is 404, unless the key also has the scope `ops`; one that is not stored is `PENDING`"
    f" to others, whatever became of it.\n\n{_VERDICTS}",
    parameters=(ORDER_ID, _WAIT),
    answers=(
        Answer(
            200,
            "The order.",
            (
                Content(
                    OrderView,
                    {
                        "Processed": examples.PROCESSED,
                        "Failed": examples.FAILED,
                        "Failed because of one of two lines": examples.FAILED_BASKET,
                        "Failed, and may change": examples.PARKED,
                        "Cancelled": CANCELLED.order,
                        "Not stored yet": examples.NOT_STORED,
                    },
                ),
            ),
            (SOURCE,),
        ),
    ),
    problems=(kinds.NOT_FOUND, kinds.STORE_UNAVAILABLE),
)

# bulk comes before {order_id}, which would match it.
OPERATIONS = (
    _ACCEPT_ORDER,
    _LIST_ORDERS,
    _ACCEPT_ORDERS,
    _LIST_ORDERS_OF_PRODUCT,
    _GET_ORDER,
    CANCEL_ORDER,
    LIST_EVENTS,
)
