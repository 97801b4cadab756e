"""What is said on `products_exchange`. Hints: a TTL heals who misses one, and nothing is decided by them alone."""

import msgspec

from pipeline.contract.fields import ProductId, UnitPrice


class ProductEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A product as it was after the commit that is told of. Events overtake each other; `version` orders them."""

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
    """Raises msgspec.DecodeError for anything else."""
    return _decoder.decode(body)
