"""The product of an order: its id in canonical form, and whether it can be sold."""

import string
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest_api.prices.catalogue import Product
from ingest_api.prices.pricing import check_sellable
from ingest_api.requests import canonical_product_id
from tests.support.data.problems import pointer_of
from web.problems.problems import Problem

PRODUCT_ID = "01a20267-97ad-8199-a6a6-540000cf26ec"


# ── product ids


@pytest.mark.parametrize("text", [PRODUCT_ID, PRODUCT_ID.upper(), PRODUCT_ID[:14].upper() + PRODUCT_ID[14:]])
def test_the_canonical_id_is_lower_case(text: str) -> None:
    assert canonical_product_id(text) == PRODUCT_ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        PRODUCT_ID.replace("-", ""),
        f"{{{PRODUCT_ID}}}",
        f"urn:uuid:{PRODUCT_ID}",
        f" {PRODUCT_ID}",
        f"{PRODUCT_ID}\n",
        f"{PRODUCT_ID}0",
        PRODUCT_ID[:-1],
        PRODUCT_ID[:-1] + "g",
        PRODUCT_ID[:-1] + "\0",
        PRODUCT_ID[:-1] + "\u0661",
        PRODUCT_ID[:-1] + "\uff11",
        "_" * 36,
    ],
)
def test_what_is_no_uuid_in_its_usual_form_is_422(text: str) -> None:
    with pytest.raises(Problem) as raised:
        canonical_product_id(text)
    assert (raised.value.status, pointer_of(raised.value)) == (422, "/productId")


@given(st.text(alphabet=string.hexdigits + "-_ {}+", min_size=36, max_size=36))
def test_what_passes_for_an_id_has_the_usual_form(text: str) -> None:
    try:
        canonical = canonical_product_id(text)
    except Problem:
        return
    assert [len(part) for part in canonical.split("-")] == [8, 4, 4, 4, 12]
    assert set(canonical) <= set("0123456789abcdef-")


# ── what the catalogue says


@pytest.mark.parametrize(
    ("price", "sold_out", "status", "name"),
    [
        (None, False, 422, "unknown-product"),
        (None, True, 422, "unknown-product"),
        (Decimal("9.99"), True, 409, "out-of-stock"),
    ],
)
def test_a_product_that_cannot_be_sold_is_refused(
    price: Decimal | None, sold_out: bool, status: int, name: str
) -> None:
    with pytest.raises(Problem) as raised:
        check_sellable(PRODUCT_ID, Product(1, price, sold_out, 0.0, 0.0))
    assert (raised.value.status, raised.value.name) == (status, name)
    assert PRODUCT_ID in raised.value.detail


def test_a_free_product_can_be_sold() -> None:
    check_sellable(PRODUCT_ID, Product(1, Decimal(0), False, 0.0, 0.0))
