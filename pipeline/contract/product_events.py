"""Events on `products_exchange`. They are hints: a reader that misses one catches up when the TTL expires."""

import msgspec

from pipeline.contract.fields import ProductId, UnitPrice


class ProductEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A product's state after a commit. Events may overtake each other; `version` orders them."""

    id: ProductId
    version: int
    price: UnitPrice
    qty: int
    deleted: bool = False


_encoder = msgspec.json.Encoder(decimal_format="number")
_decoder = msgspec.json.Decoder(ProductEvent)


def encode_event(event: ProductEvent) -> bytes:
    return _encoder.encode(event)


def decode_event(body: bytes) -> ProductEvent:
    """Decode an event. Raises msgspec.DecodeError for anything else."""
    return _decoder.decode(body)
