"""The decode paths under atheris, a coverage-guided fuzzer: `python -m tests.fuzz.decoders TARGET [OPTION...]`.

A target takes any bytes, and raises only when a promise is broken: what comes out of a decoder is what was in the
bytes, or the refusal that is meant for the caller. libFuzzer, whose options these are, then prints the input and ends
with a code that is not 0. A target returns whether the bytes were taken; the first that were are printed, so that a
run which never gets there is noticed.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import atheris

_INSTRUMENTED = [
    "ingest_api.intake.bulk",
    "ingest_api.requests",
    "pipeline.contract.orders",
    "product_api.requests",
    "web.requests.json_body",
]

with atheris.instrument_imports(include=_INSTRUMENTED):
    from ingest_api.intake import bulk
    from ingest_api.requests import MAX_QUANTITY, AnyRequest, OrderRequest, decode_request, requested_lines
    from pipeline.contract.orders import MAX_LINES, InvalidOrder, decode_body, encode_order, join_orders, split_body
    from product_api.requests import decode_patch, decode_product, decode_restock
    from web.problems.problems import Problem


def order_request(body: bytes) -> bool:
    """A body of POST /api/v1/orders: 400, 422, or what every other reader of JSON finds in it."""
    try:
        request = decode_request(body)
    except Problem as problem:
        return _refused(problem)
    _agrees(request, json.loads(body))
    return True


def bulk_request(body: bytes) -> bool:
    """A body of POST /api/v1/orders/bulk; its first byte says whether it is NDJSON."""
    try:
        elements = bulk.split(body[1:], is_ndjson=body[:1] == b"n")
    except Problem as problem:
        return _refused(problem)
    assert 1 <= len(elements) <= bulk.MAX_ORDERS
    taken = [(it, request) for it in elements if not isinstance(request := bulk.read(it), Problem)]
    for element, request in taken:
        _agrees(request, json.loads(element))
    return bool(taken)


def message(body: bytes) -> bool:
    """A message body: InvalidOrder, or orders that are the same when they are written and read again."""
    try:
        orders = decode_body(body)
    except InvalidOrder:
        return False
    assert len(split_body(body)) == len(orders)
    again = join_orders(map(encode_order, orders))
    assert decode_body(again) == orders
    return bool(orders)


def product_request(body: bytes) -> bool:
    """A body of POST and PUT, of PATCH, and of a restock."""
    taken = 0
    for decode in (decode_product, decode_patch, decode_restock):
        try:
            decode(body)
            taken += 1
        except Problem as problem:
            _refused(problem)
    return taken > 0


def planted(body: bytes) -> bool:
    """A fault that chance would not find in the time there is: this must be found, or nothing would be."""
    assert body[:6] != b'{"qty"'
    return True


TARGETS: dict[str, Callable[[bytes], bool]] = {
    it.__name__: it for it in (order_request, bulk_request, message, product_request, planted)
}


def _refused(problem: Problem) -> bool:
    """False; a problem of another kind is none that a body may have."""
    assert problem.status in (400, 422), problem
    return False


def _agrees(request: AnyRequest, content: dict[str, Any]) -> None:
    each = [content] if isinstance(request, OrderRequest) else content["lines"]
    lines = requested_lines(request)
    assert 1 <= len({line.product_id for line in lines}) == len(lines) <= MAX_LINES
    for line, sent in zip(lines, each, strict=True):
        assert type(sent["quantity"]) is int
        assert 1 <= line.quantity == sent["quantity"] <= MAX_QUANTITY
        assert line.product_id.lower() == str(sent["productId"]).lower()
    assert request.reference == content.get("reference")
    assert request.metadata == (content.get("metadata") or None)


class _Told:
    """The target, and whether anything was taken yet."""

    def __init__(self, target: Callable[[bytes], bool]) -> None:
        self._target, self._taken = target, False

    def __call__(self, body: bytes) -> None:
        if self._target(body) and not self._taken:
            self._taken = True
            print(f"taken: {body!r}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    atheris.Setup(sys.argv, _Told(atheris.instrument_func(TARGETS[sys.argv.pop(1)])))
    atheris.Fuzz()
