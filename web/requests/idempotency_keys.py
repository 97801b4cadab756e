"""The Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header-07), for both APIs."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from web.problems.problems import malformed
from web.requests.operations import Header, Parameter

# 1 to 255 visible ASCII characters, bare or as the RFC 8941 string that the draft asks for.
_KEY = re.compile(rb'"([\x21\x23-\x5b\x5d-\x7e]{1,255})"|([\x21\x23-\x7e][\x21-\x7e]{0,254})')

REPLAYED = Header(
    "Idempotency-Replayed",
    Literal["true"],
    "There if this is the answer that an earlier request with the same key got.",
    "true",
)


def key_parameter(description: str) -> Parameter:
    """The header, for an operation's table. `description`: what the key does there."""
    return Parameter(
        "Idempotency-Key",
        "header",
        # `idempotency_key` checks it, in bytes.
        Annotated[str, Meta(pattern=r'^("[!#-\[\]-~]{1,255}"|[!#-~][!-~]{0,254})$')],
        description,
        "01a20267-9000-7c3d-8a1e-2b4c6d8e0f11",
    )


def idempotency_key(values: Sequence[bytes]) -> str | None:
    """The key in a request's Idempotency-Key headers, or None if there are none. Raises Problem (400) for a malformed
    one, or for more than one.
    """
    if not values:
        return None
    if len(values) > 1:
        raise malformed("There is more than one Idempotency-Key. Send one.")
    match = _KEY.fullmatch(values[0])
    if match is None:
        raise malformed("Idempotency-Key must be 1 to 255 visible ASCII characters, best a UUIDv7.")
    return (match[1] or match[2]).decode()
