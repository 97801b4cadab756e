"""Signs webhooks as Standard Webhooks says, so that receivers verify them with a library: standardwebhooks.com.

    webhook-id           which request it is; the same in each attempt at it
    webhook-timestamp    when this attempt was sent, in Unix seconds, so that a recorded request is of no use later
    webhook-signature    v1, and the base64 of HMAC-SHA256 over id.timestamp.body

While a secret is replaced, the old one and the new one both sign. A receiver that knows either verifies the request.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

from pipeline.contract.hooks import SECRET_PREFIX


class InvalidSecret(ValueError):
    """Text that is no secret of Standard Webhooks. The message does not quote it."""


def key_of(secret: str) -> bytes:
    """The key in a secret: `whsec_` and base64. Raises InvalidSecret."""
    if not secret.startswith(SECRET_PREFIX):
        raise InvalidSecret(f"a secret begins with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise InvalidSecret(f"a secret is {SECRET_PREFIX} and base64") from None
    if not key:
        raise InvalidSecret("a secret has no key")
    return key


def signed_headers(keys: Sequence[bytes], webhook_id: str, sent_at: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt. `keys`: at least one. `sent_at`: Unix seconds."""
    signed = b"%s.%d.%s" % (webhook_id.encode(), sent_at, body)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": " ".join(_signature(key, signed) for key in keys),
    }


def _signature(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
