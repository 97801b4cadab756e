"""What ingest_api answers: the one table that its routes and its OpenAPI document are made from."""

from web.clients import ORDERS_READ, ORDERS_WRITE
from web.operations import Operation

ORDERS = "/api/v1/orders"

OPERATIONS = (
    Operation("acceptOrder", "POST", ORDERS, ORDERS_WRITE),
    # Before {order_id}: `bulk` is no order's id.
    Operation("acceptOrders", "POST", f"{ORDERS}/bulk", ORDERS_WRITE),
    Operation("listOrdersOfProduct", "GET", f"{ORDERS}/product/{{product_id}}", ORDERS_READ),
    Operation("getOrder", "GET", f"{ORDERS}/{{order_id}}", ORDERS_READ),
)
