"""Prices requests: finds the products of an order, and refuses what cannot be sold."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from database.sessions import StoreUnavailable
from ingest_api.prices.catalogue import Catalogue, Product
from ingest_api.requests import AnyRequest, BasketRequest, canonical_product_id, requested_lines, to_any_order, to_order
from pipeline.contract.orders import AnyOrder
from pipeline.process.shares import Busy
from web.problems import problems


def check_sellable(product_id: str, product: Product) -> Decimal:
    """The product's price. Raises Problem: 422 if it does not exist, 409 if it is known to be sold out."""
    if product.price is None:
        raise problems.unknown_product(product_id)
    if product.sold_out:
        raise problems.out_of_stock(product_id)
    return product.price


def prices_of(request: AnyRequest, products: Mapping[str, Product]) -> list[Decimal]:
    """The price of each line. `products`: by canonical id; those that could not be looked up are missing.

    Raises Problem: as check_sellable, with all lines that are to blame; 503 if a product is missing.
    """
    lines = requested_lines(request)
    found = [product for line in lines if (product := products.get(line.product_id)) is not None]
    if len(found) < len(lines):
        raise problems.store_unavailable()
    if isinstance(request, BasketRequest):
        _check_all_sellable([line.product_id for line in lines], found)
    return [check_sellable(line.product_id, product) for line, product in zip(lines, found, strict=True)]


def _check_all_sellable(product_ids: list[str], products: list[Product]) -> None:
    """Raises Problem, with the lines: 422 if products do not exist, 409 if products are known to be sold out."""
    lines = list(enumerate(zip(product_ids, products, strict=True)))
    if unknown := {line: product_id for line, (product_id, it) in lines if it.price is None}:
        raise problems.unknown_lines(unknown)
    if sold_out := {line: product_id for line, (product_id, it) in lines if it.sold_out}:
        raise problems.sold_out_lines(sold_out)


# ── I/O below


async def price(catalogue: Catalogue, order_id: str, request: AnyRequest, client: str) -> AnyOrder:
    """The order that `request` becomes, if its products can be sold. Raises Problem (409, 422, 503)."""
    if isinstance(request, BasketRequest):
        return await _price_basket(catalogue, order_id, request, client)
    product_id = request.product_id
    product = catalogue.get(product_id)
    if product is None:
        product_id = canonical_product_id(product_id)
        try:
            product = await catalogue.find(product_id, client)
        except StoreUnavailable as error:
            raise problems.store_unavailable(str(error)) from None
        except Busy:
            raise problems.overloaded() from None
    unit_price = check_sellable(product_id, product)
    return to_order(order_id, request, product_id, unit_price, datetime.now(UTC))


async def _price_basket(catalogue: Catalogue, order_id: str, request: BasketRequest, client: str) -> AnyOrder:
    try:
        products = await catalogue.find_all([line.product_id for line in request.lines], client)
    except Busy:
        raise problems.overloaded() from None
    return to_any_order(order_id, request, prices_of(request, products), datetime.now(UTC))
