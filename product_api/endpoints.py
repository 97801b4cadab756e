"""The endpoints: a request becomes a read or a change, and its result a response."""

from collections.abc import Awaitable

from starlette.requests import Request
from starlette.responses import Response

from pipeline.contract.adjustments import Adjustment
from product_api.announcer import Announcer
from product_api.answered import Answer, AnsweredBefore, KeyedRequest, digest_of
from product_api.preconditions import check_if_match, etag, matches_if_none_match, require_if_match
from product_api.products import C, ChangeUnanswered, Products, StoredProduct, encode
from product_api.reader import ProductReader
from product_api.requests import Edit, ProductValues, decode_patch, decode_product, decode_restock, restocked_in
from web.problems import problems, unknown_outcomes
from web.requests.head import Head, head_of
from web.requests.idempotency_keys import idempotency_key
from web.requests.ids import id_in_path
from web.requests.paging import Cursor, Page
from web.serving.body import read_json_body


class ProductEndpoints:
    def __init__(self, products: Products, reader: ProductReader, announcer: Announcer, max_body_bytes: int) -> None:
        self._products, self._reader, self._announcer = products, reader, announcer
        self._max_body_bytes = max_body_bytes

    async def get(self, request: Request) -> Response:
        product_id, head = id_in_path(request, "product"), head_of(request)
        found = await self._reader.read(product_id, head.client.name)
        if found is None:
            raise _no_product(product_id)
        if matches_if_none_match(head.if_none_match, found.version):
            return Response(status_code=304, headers=_validators(found.version))
        return _json(found.body, headers=_validators(found.version))

    async def page(self, request: Request) -> Response:
        page = Page.of(request)
        rows = await self._products.page(page, head_of(request).client.name)
        shown, headers = page.cut(rows, request.url, lambda row: Cursor(row.product.created_at, row.product.id))
        return _json(encode([row.product for row in shown]), headers={"Cache-Control": "no-store", **headers})

    async def create(self, request: Request) -> Response:
        values = decode_product(await self._body(request))
        keyed = _keyed(request, 201, "create", *map(str, values))
        try:
            change = await self._told(self._products.create(values, keyed))
        except AnsweredBefore as before:
            return await self._replay(request, before.answer)
        response = _product(change.after, status=201)
        response.headers["Location"] = f"{request.scope['root_path']}{_path(change.after.product.id)}"
        return response

    async def replace(self, request: Request) -> Response:
        values = decode_product(await self._body(request))
        return await self._change(request, Adjustment.CORRECTION, lambda _: values, overwrites=True)

    async def patch(self, request: Request) -> Response:
        patch = decode_patch(await self._body(request))
        return await self._change(request, Adjustment.CORRECTION, patch.edit, overwrites=patch.sets_qty)

    async def restock(self, request: Request) -> Response:
        body = await self._body(request)
        restock, product_id = decode_restock(body), id_in_path(request, "product")
        keyed = _keyed(request, 200, "restock", product_id, restocked_in(body))
        try:
            return await self._change(request, Adjustment.RESTOCK, restock, keyed=keyed)
        except AnsweredBefore as before:
            return await self._replay(request, before.answer)

    async def delete(self, request: Request) -> Response:
        product_id, head = id_in_path(request, "product"), head_of(request)

        def check(current: StoredProduct) -> None:
            _check_version(head, current.version)

        if await self._told(self._products.delete(product_id, check)) is None:
            raise _no_product(product_id)
        return Response(status_code=204)

    async def _change(
        self,
        request: Request,
        reason: Adjustment,
        edit: Edit,
        *,
        overwrites: bool = False,
        keyed: KeyedRequest | None = None,
    ) -> Response:
        """`overwrites`: whether it sets what orders change meanwhile, so that the client must send If-Match."""
        product_id, head = id_in_path(request, "product"), head_of(request)
        if overwrites:
            require_if_match(head.if_match)

        def checked_edit(current: StoredProduct) -> ProductValues:
            _check_version(head, current.version)
            return edit(current.values)

        change = await self._told(self._products.change(product_id, reason, checked_edit, keyed))
        if change is None:
            raise _no_product(product_id)
        return _product(change.after)

    async def _replay(self, request: Request, answer: Answer) -> Response:
        """The first answer again. The process that gave it may have died before it busted the cache, so bust again."""
        await self._announcer.bust(answer.product_id, answer.version)
        headers = {**_validators(answer.version), "Idempotency-Replayed": "true"}
        if answer.status == 201:
            headers["Location"] = f"{request.scope['root_path']}{_path(answer.product_id)}"
        return _json(answer.body, answer.status, headers)

    async def _told(self, changing: Awaitable[C]) -> C:
        """The change, made and announced; None if there is no such product. Raises Problem for an unknown outcome."""
        try:
            change = await changing
        except ChangeUnanswered as error:
            await self._announcer.doubt(error.change)
            raise unknown_outcomes.change_unanswered(
                _path(error.change.after.product.id), is_new=error.change.before is None
            ) from None
        if change is not None and not change.changes_nothing:
            await self._announcer.announce(change)
        return change

    async def _body(self, request: Request) -> bytes:
        return await read_json_body(head_of(request), request.receive, self._max_body_bytes)


def _check_version(head: Head, version: int) -> None:
    """Raises Problem (400, 412) if a precondition excludes this version. In the order of RFC 9110, 13.2.2."""
    check_if_match(head.if_match, version)
    if matches_if_none_match(head.if_none_match, version):
        raise problems.version_excluded(version)


def _keyed(request: Request, status: int, *asked: object) -> KeyedRequest | None:
    """The request's key, with what it asks for. Raises Problem (400)."""
    head = head_of(request)
    key = idempotency_key(head.idempotency_keys)
    return KeyedRequest(head.client.name, key, digest_of(*asked), status) if key is not None else None


def _path(product_id: str) -> str:
    return f"/products/{product_id}"


def _no_product(product_id: str) -> problems.Problem:
    return problems.not_found(f"product {product_id}")


def _product(stored: StoredProduct, status: int = 200) -> Response:
    return _json(encode(stored.product), status, _validators(stored.version))


def _validators(version: int) -> dict[str, str]:
    """ETag and Cache-Control: a client may keep the product, and revalidates it each time."""
    return {"ETag": etag(version), "Cache-Control": "no-cache"}


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")
