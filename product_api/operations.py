"""What product_api answers: the one table that its routes and its OpenAPI document are made from."""

from web.clients import ANY_KEY, PRODUCTS_WRITE
from web.operations import Operation

PRODUCTS = "/products"
PRODUCT = "/products/{product_id}"

OPERATIONS = (
    Operation("listProducts", "GET", PRODUCTS, ANY_KEY),
    Operation("createProduct", "POST", PRODUCTS, PRODUCTS_WRITE),
    Operation("getProduct", "GET", PRODUCT, ANY_KEY),
    Operation("replaceProduct", "PUT", PRODUCT, PRODUCTS_WRITE),
    Operation("patchProduct", "PATCH", PRODUCT, PRODUCTS_WRITE),
    Operation("deleteProduct", "DELETE", PRODUCT, PRODUCTS_WRITE),
    Operation("restockProduct", "POST", f"{PRODUCT}/restock", PRODUCTS_WRITE),
)
