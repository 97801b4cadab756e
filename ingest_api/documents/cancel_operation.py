"""The operation that cancels an order: a row of the table in operations.py."""

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from ingest_api.documents.event_examples import CANCELLED, FAILED, PROCESSED
from ingest_api.documents.order_fields import LOCATION, ORDER_ID, ORDERS, SOURCE, TAG
from ingest_api.intake.cancel import CancelRequest
from pipeline.contract.fields import EXAMPLE_ORDER
from pipeline.contract.order_view import OrderView
from web.access.clients import ORDERS_WRITE
from web.problems import kinds
from web.requests.operations import Answer, Content, Link, Operation, Parameter
from web.requests.waits import MAX_WAIT_S

_PENDING = replace(PROCESSED.order, status="PENDING", final=False)
_NOT_STORED = OrderView(EXAMPLE_ORDER, "PENDING", final=False)

CANCEL_ORDER = Operation(
    "cancelOrder",
    "POST",
    f"{ORDERS}/{{order_id}}/cancel",
    ORDERS_WRITE,
    TAG,
    "Cancel an order",
    "Takes an order back, decided or not. An order that is not decided yet takes no stock. The units of a `PROCESSED`"
    " order go back into the stock. A `FAILED` order stays as it is.\n\nCancelling twice is cancelling once, so the"
    " request may be sent again without an `Idempotency-Key`. It counts as one order against the key's limit. A client"
    " cancels its own orders; a key that also has the scope `ops` cancels all.",
    parameters=(
        ORDER_ID,
        Parameter(
            "wait",
            "query",
            Annotated[float, Meta(ge=0, le=MAX_WAIT_S)],
            "Seconds to hold the answer until the order is cancelled, or cannot be; fractions are allowed. Then the"
            " answer is 200, else 202.",
            5,
        ),
    ),
    body=(Content(CancelRequest, {"With a reason": {"reason": CANCELLED.order.cancel_reason}, "Without": {}}),),
    is_body_optional=True,
    answers=(
        Answer(
            200,
            "Nothing is left to cancel: the order is `CANCELLED`, or `FAILED` for ever.",
            (Content(OrderView, {"Cancelled": CANCELLED.order, "Failed before": FAILED.order}),),
            (SOURCE,),
        ),
        Answer(
            202,
            "The cancellation is on disk in the broker, and will be carried out, whatever fails from here on. Until"
            " then the order is as before.",
            (Content(OrderView, {"Not cancelled yet": _PENDING, "Not stored yet": _NOT_STORED}),),
            (LOCATION, SOURCE),
            (Link("getOrder", "order_id", "$response.body#/id"),),
        ),
    ),
    problems=(
        kinds.NOT_FOUND,
        kinds.TOO_MANY_REQUESTS,
        kinds.BROKER_UNAVAILABLE,
        kinds.OUTCOME_UNKNOWN,
        kinds.STORE_UNAVAILABLE,
    ),
)
