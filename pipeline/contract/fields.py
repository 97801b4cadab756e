"""Fields that orders and products share, as OpenAPI and AsyncAPI describe them.

Nothing here is checked at run time: a decoder reads `OrderId` as it reads `str`, and as fast.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

EXAMPLE_ORDER = "01a20267-97ad-8199-a6a6-540000cf26ec"
EXAMPLE_PRODUCT = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"
EXAMPLE_OTHER_PRODUCT = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b43"
EXAMPLE_REFERENCE = "4711-a"
EXAMPLE_METADATA = {"cart": "c-80211", "channel": "app"}

MAX_REFERENCE_CHARACTERS = 64
MAX_METADATA_PAIRS, MAX_METADATA_KEY_CHARACTERS, MAX_METADATA_BYTES = 16, 64, 2048

OrderId = Annotated[
    str,
    Meta(
        description="Made by the service, a UUID version 8. Sorts by time.",
        examples=[EXAMPLE_ORDER],
        extra_json_schema={"format": "uuid"},
    ),
]
ProductId = Annotated[
    str, Meta(description="Of a product.", examples=[EXAMPLE_PRODUCT], extra_json_schema={"format": "uuid"})
]
UnitPrice = Annotated[
    Decimal,
    Meta(
        description="Of one unit. Exact, with at most two decimal places: numeric(12,2) in the database.",
        examples=[1500.0],
        extra_json_schema={"minimum": 0, "maximum": 9999999999.99},
    ),
]
TotalPrice = Annotated[
    Decimal,
    Meta(
        description="`unit_price` × `quantity`, exact. If your numbers are binary floats, read it as text.",
        examples=[3000.0],
        extra_json_schema={"minimum": 0},
    ),
]
Moment = Annotated[
    datetime,
    Meta(
        description="RFC 3339, in UTC.",
        examples=["2026-01-05T09:30:00.123456Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
# What a schema can say of the text that PostgreSQL stores.
_NO_NUL = {"pattern": r"^[^\u0000]*$"}
Reference = Annotated[
    str,
    Meta(
        description="The client's own name of the order, such as its number in a shop. It need not be unique.",
        examples=[EXAMPLE_REFERENCE],
        extra_json_schema={"minLength": 1, "maxLength": MAX_REFERENCE_CHARACTERS, **_NO_NUL},
    ),
]
MetadataKey = Annotated[
    str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_METADATA_KEY_CHARACTERS, **_NO_NUL})
]
MetadataValue = Annotated[str, Meta(extra_json_schema={"maxLength": MAX_METADATA_BYTES, **_NO_NUL})]
METADATA_META = Meta(
    description="What else the client wants back with the order: pairs of text. Their keys and values together have at"
    f" most {MAX_METADATA_BYTES} bytes in UTF-8.",
    examples=[EXAMPLE_METADATA],
    extra_json_schema={"maxProperties": MAX_METADATA_PAIRS},
)
Metadata = Annotated[dict[MetadataKey, MetadataValue], METADATA_META]
MetadataText = Annotated[msgspec.Raw, Meta(extra_json_schema=msgspec.json.schema(Metadata))]
"""Metadata as JSON text. It goes from its column into an answer, and nobody has to decode it."""
