"""The operations of product_api: the one table from which its routes and its OpenAPI document are made."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from pipeline.contract.fields import EXAMPLE_PRODUCT, ProductId
from product_api.products import Product
from product_api.requests import PatchRequest, ProductRequest, RestockRequest
from web.access.clients import ANY_KEY, PRODUCTS_WRITE
from web.problems import kinds
from web.requests import http_fields
from web.requests.idempotency_keys import REPLAYED, key_parameter
from web.requests.operations import Answer, Content, Header, Link, Operation, Parameter

PRODUCTS = "/products"
PRODUCT = "/products/{product_id}"

TAG = "Products"
TAG_TEXT = """\
What can be ordered. Orders move `qty` all the time, and with it the `ETag`: to add units use restock, which is a
difference and needs no `ETag`; to set `qty`, send the `ETag` of what you have seen as `If-Match`.
"""

# ── examples

_LAPTOP = Product(EXAMPLE_PRODUCT, "Laptop Demo", Decimal("1500.00"), 50, datetime(2026, 1, 5, 9, 30, 0, 123456, UTC))
_NEW = {"name": "Laptop Demo", "price": 1500, "qty": 50}

# ── parameters and headers

# Of a demo product, so that the example works as it is. To delete it, one has to mean it.
_ID = Parameter(
    "product_id", "path", ProductId, "The product's id.", EXAMPLE_PRODUCT, is_required=True, is_filled_in=True
)
_ID_TO_DELETE = replace(_ID, is_filled_in=False)
_LOCATION = Header("Location", str, "Where the product can be read.", f"{PRODUCTS}/{EXAMPLE_PRODUCT}", True)

_KEY = key_parameter(
    "Makes the request safe to send again (draft-ietf-httpapi-idempotency-key-header-07): the change is made once, and"
    " for a day the first answer is given again, as it was, whatever has changed since. 1 to 255 visible ASCII"
    " characters, bare or in quotes."
)
_KEY_PROBLEMS = (kinds.REQUEST_IN_FLIGHT, kinds.KEY_REUSED)

_NEXT = tuple(
    Link(operation_id, "product_id", "$response.body#/id")
    for operation_id in ("getProduct", "replaceProduct", "patchProduct", "deleteProduct", "restockProduct")
)
_PRODUCT_NOW = Answer(
    200, "The product as it is now.", (Content(Product, {"A product": _LAPTOP}),), (http_fields.ETAG,)
)
_CHANGE_PROBLEMS = (
    kinds.NOT_FOUND,
    kinds.VERSION_MISMATCH,
    kinds.WEAK_ETAG,
    kinds.OUTCOME_UNKNOWN,
    kinds.STORE_UNAVAILABLE,
)

OPERATIONS = (
    Operation(
        "listProducts",
        "GET",
        PRODUCTS,
        ANY_KEY,
        TAG,
        "List the products",
        "Newest first.",
        parameters=(http_fields.LIMIT, http_fields.BEFORE),
        answers=(
            Answer(
                200,
                "A page of products.",
                (Content(list[Product], {"One product": [_LAPTOP]}),),
                (http_fields.LINK,),
            ),
        ),
        problems=(kinds.STORE_UNAVAILABLE,),
    ),
    Operation(
        "createProduct",
        "POST",
        PRODUCTS,
        PRODUCTS_WRITE,
        TAG,
        "Create a product",
        "It can be ordered at once.",
        parameters=(_KEY,),
        body=(Content(ProductRequest, {"A laptop": _NEW, "A price as a string": _NEW | {"price": "19.99"}}),),
        answers=(
            Answer(
                201,
                "Created.",
                (Content(Product, {"A product": _LAPTOP}),),
                (_LOCATION, http_fields.ETAG, REPLAYED),
                _NEXT,
            ),
        ),
        problems=(*_KEY_PROBLEMS, kinds.OUTCOME_UNKNOWN, kinds.STORE_UNAVAILABLE),
    ),
    Operation(
        "getProduct",
        "GET",
        PRODUCT,
        ANY_KEY,
        TAG,
        "Read a product",
        parameters=(_ID, http_fields.IF_NONE_MATCH),
        answers=(
            _PRODUCT_NOW,
            Answer(304, "The client has the present version already.", headers=(http_fields.ETAG,)),
        ),
        problems=(kinds.NOT_FOUND, kinds.STORE_UNAVAILABLE),
    ),
    Operation(
        "replaceProduct",
        "PUT",
        PRODUCT,
        PRODUCTS_WRITE,
        TAG,
        "Replace a product",
        "Sets all of it. Orders that were accepted before keep their price.",
        parameters=(_ID, http_fields.IF_MATCH_REQUIRED, http_fields.IF_NONE_MATCH_CHANGE),
        body=(Content(ProductRequest, {"All of it": _NEW}),),
        answers=(_PRODUCT_NOW,),
        problems=(*_CHANGE_PROBLEMS, kinds.PRECONDITION_REQUIRED),
    ),
    Operation(
        "patchProduct",
        "PATCH",
        PRODUCT,
        PRODUCTS_WRITE,
        TAG,
        "Change parts of a product",
        "A JSON merge patch. If it sets `qty`, `If-Match` is required. One that changes nothing leaves the `ETag` as it"
        " is.",
        parameters=(_ID, http_fields.IF_MATCH, http_fields.IF_NONE_MATCH_CHANGE),
        body=(
            Content(PatchRequest, {"A new price": {"price": 1450.5}}, "application/merge-patch+json"),
            Content(PatchRequest, {"A new price": {"price": 1450.5}, "A count of the shelf": {"qty": 48}}),
        ),
        answers=(_PRODUCT_NOW,),
        problems=(*_CHANGE_PROBLEMS, kinds.PRECONDITION_REQUIRED),
    ),
    Operation(
        "deleteProduct",
        "DELETE",
        PRODUCT,
        PRODUCTS_WRITE,
        TAG,
        "Take a product off sale",
        "It can no longer be read or ordered. Orders of it that were accepted and are not decided yet fail with"
        " `product_deleted`.",
        parameters=(_ID_TO_DELETE, http_fields.IF_MATCH, http_fields.IF_NONE_MATCH_CHANGE),
        answers=(Answer(204, "Deleted."),),
        problems=_CHANGE_PROBLEMS,
    ),
    Operation(
        "restockProduct",
        "POST",
        f"{PRODUCT}/restock",
        PRODUCTS_WRITE,
        TAG,
        "Add units to the stock",
        "A difference, not a total: correct whatever orders do meanwhile. With an `Idempotency-Key` it may be sent"
        " again, and adds once. Without one, GET the product before you send it again.",
        parameters=(_ID, _KEY, http_fields.IF_MATCH, http_fields.IF_NONE_MATCH_CHANGE),
        body=(Content(RestockRequest, {"A delivery": {"quantity": 25}}),),
        answers=(replace(_PRODUCT_NOW, headers=(*_PRODUCT_NOW.headers, REPLAYED)),),
        problems=(*_CHANGE_PROBLEMS, *_KEY_PROBLEMS),
    ),
)
