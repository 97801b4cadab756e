"""What a list of orders can be asked for: the parameters of listOrders, and what its description says of them."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from ingest_api.reads.order_query import MAX_IDS
from ingest_api.reads.order_walks import MOST_ROWS
from pipeline.contract.fields import EXAMPLE_ORDER, EXAMPLE_PRODUCT, EXAMPLE_REFERENCE, OrderId, ProductId, Reference
from pipeline.contract.order_view import STATUSES
from web.requests import http_fields
from web.requests.operations import Parameter
from web.requests.waits import MAX_WAIT_S

ABOUT_LISTS = (
    "Newest first, and those of the client alone; a key that also has the scope `ops` sees all. All filters that are"
    " given must hold. An order is listed once it is stored, which takes a moment after it was accepted; one that"
    " could not be stored is not in any list. `GET` by id and the events have it.\n\n"
    f"**Follow `next` until there is none.** A page examines at most {MOST_ROWS:,} orders. Where few of them pass the"
    " filters, it holds fewer orders than `limit`, or none, and has a `next` all the same: the search goes on there."
    " A page without `next` is the last.\n\n"
    f"With `id`, 1 to {MAX_IDS} times: these orders, in the order asked, from the moment that each was accepted. Then"
    " `wait` is the only other parameter. One that this client may not see, or that nobody has made, is left out, where"
    " `GET` of it alone is 404."
)

LIST_PARAMETERS = (
    Parameter(
        "reference",
        "query",
        Reference,
        "Orders with exactly this reference.",
        EXAMPLE_REFERENCE,
    ),
    Parameter("product", "query", ProductId, "Orders that contain this product.", EXAMPLE_PRODUCT),
    Parameter("status", "query", Literal[STATUSES], "Orders that have this status now.", "FAILED"),
    Parameter("since", "query", datetime, "Accepted at this time or later (RFC 3339).", "2026-01-05T09:30:00Z"),
    Parameter("until", "query", datetime, "Accepted before this time (RFC 3339).", "2026-01-06T00:00:00Z"),
    http_fields.LIMIT,
    http_fields.BEFORE,
    Parameter(
        "id",
        "query",
        Annotated[list[OrderId], Meta(min_length=1, max_length=MAX_IDS)],
        "An order's id. Repeat the parameter for more of them.",
        [EXAMPLE_ORDER],
        is_list=True,
    ),
    Parameter(
        "wait",
        "query",
        Annotated[float, Meta(ge=0, le=MAX_WAIT_S)],
        "Only with `id`: seconds to hold the answer until all these orders are decided; fractions are allowed.",
        5,
    ),
)
