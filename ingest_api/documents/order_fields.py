"""What the operations on orders share: path, tag, parameters and headers."""

from typing import Literal

from pipeline.contract.fields import EXAMPLE_ORDER, OrderId
from web.requests.operations import Header, Parameter

ORDERS = "/api/v1/orders"
TAG = "Orders"

ORDER_ID = Parameter("order_id", "path", OrderId, "The order's id.", EXAMPLE_ORDER, is_required=True)
LOCATION = Header("Location", str, "Where the order can be read, from now on.", f"{ORDERS}/{EXAMPLE_ORDER}", True)
SOURCE = Header(
    "Order-Status-Source",
    Literal["store", "id"],
    "`store`: the database was asked. `id`: it is away, and the id alone says that the order was accepted.",
    "store",
    True,
)
