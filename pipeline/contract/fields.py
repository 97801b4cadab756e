"""Fields that orders and products share, as OpenAPI and AsyncAPI describe them.

Nothing here is checked at run time: a decoder reads `OrderId` as it reads `str`, and as fast.
"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from msgspec import Meta

EXAMPLE_ORDER = "01a20267-97ad-8199-a6a6-540000cf26ec"
EXAMPLE_PRODUCT = "01a20261-5c40-7b6e-9f0a-3d5c1e8a7b42"

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
