"""The operation that reads events: a row of the table of operations."""

from typing import Annotated

from msgspec import Meta

from ingest_api.documents.event_examples import CANCELLED, CURSOR, FAILED, PARKED, PROCESSED
from ingest_api.events.endpoint import LAST_EVENT_ID
from ingest_api.events.query import DEFAULT_LIMIT, MAX_LIMIT
from ingest_api.events.stream import HEARTBEAT_S, MEDIA_TYPE
from pipeline.contract.fields import EXAMPLE_PRODUCT, ProductId
from pipeline.contract.order_events import EventType, OrderEvent, encode_event
from web.access.clients import ORDERS_READ
from web.problems import kinds
from web.requests.operations import Answer, Content, Header, Operation, Parameter
from web.requests.waits import MAX_WAIT_S

EVENTS = "/api/v1/events"
TAG = "Events"
TAG_TEXT = "What happened to orders, for every service that comes after."

_MESSAGE = f"id: {CURSOR}\nevent: {PROCESSED.type}\ndata: {encode_event(PROCESSED).decode()}\n\n"

_TYPE = "|".join(it.replace(".", r"\.") for it in EventType)
_PARAMETERS = (
    Parameter(
        "after",
        "query",
        str,
        "Where to begin: the `cursor` of the last event that you have, or the `next` of a page; `now`; or a time"
        " (RFC 3339), from which on no event is left out. Without it, with the first event of the log.",
        "now",
    ),
    Parameter(
        "types",
        "query",
        Annotated[str, Meta(pattern=f"^({_TYPE})(,({_TYPE}))*$")],
        "Only these types, with commas between.",
        f"{EventType.PROCESSED},{EventType.FAILED}",
    ),
    Parameter(
        "product",
        "query",
        ProductId,
        "Only events of orders of this product. An order that could not be stored has none.",
        EXAMPLE_PRODUCT,
    ),
    Parameter(
        "limit",
        "query",
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        f"How many at the most; {DEFAULT_LIMIT} if it is left out. Not for a stream.",
        DEFAULT_LIMIT,
    ),
    Parameter(
        "wait",
        "query",
        Annotated[float, Meta(ge=0, le=MAX_WAIT_S)],
        "Seconds to hold the answer until there is an event; fractions are allowed. Not for a stream.",
        5,
    ),
    Parameter(
        LAST_EVENT_ID,
        "header",
        Annotated[str, Meta(min_length=1)],
        "Of a stream: where to resume, instead of `after`. Browsers send it by themselves. Not for a page: 400.",
        CURSOR,
    ),
)
_NEXT = Header(
    "Link",
    str,
    'What follows, `rel="next"` (RFC 8288). Always there: an empty page has one, too.',
    f'<{EVENTS}?limit=100&after={CURSOR}>; rel="next"',
    is_always_there=False,
)

LIST_EVENTS = Operation(
    "listEvents",
    "GET",
    EVENTS,
    ORDERS_READ,
    TAG,
    "Read or follow what happens to orders",
    "One event for every verdict, and for every cancelled and every parked order, once it is committed. Those of the"
    " client's own orders; a key that also has the scope `ops` sees all. Follow `next`, and you miss none and get none"
    " twice: events keep their order, whatever commits late. The events of one order come in the order of their"
    " `sequence`. A page may end early, even without any event: then the search for what you asked for goes on with"
    " `next`.\n\n"
    f"With `Accept: {MEDIA_TYPE}`, a stream of server-sent events, which goes on until one of you ends it. A comment"
    f" comes at least every {HEARTBEAT_S:g} s. A message without data is no event: its `id` says how far you are. A"
    " client that reads too slowly is dropped. Come back with the last `id` as `Last-Event-ID`; browsers do.",
    parameters=_PARAMETERS,
    answers=(
        Answer(
            200,
            "Events, in the order of the log.",
            (
                Content(
                    list[OrderEvent],
                    {
                        "Processed": [PROCESSED],
                        "Failed": [FAILED],
                        "Cancelled": [CANCELLED],
                        "Parked": [PARKED],
                        "None yet": [],
                    },
                ),
                Content(str, {"One event": _MESSAGE}, MEDIA_TYPE),
            ),
            (_NEXT,),
        ),
    ),
    problems=(kinds.CURSOR_UNKNOWN, kinds.STORE_UNAVAILABLE),
)
