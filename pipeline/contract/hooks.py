"""Webhooks: what `./headrace hooks` and event_relay agree on. Their tables are migrations/0008_hooks.sql."""

from datetime import timedelta

CHANGED = "headrace_hooks"
"""The channel that tells event_relay to read the hooks again. The payload is empty. A notification may be lost."""

MAX_BATCH = 1000
"""Events in one request, at most."""

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix that Standard Webhooks prescribes
"""A secret is this, followed by base64 of SECRET_BYTES random bytes. The bytes are the key that signs."""
SECRET_BYTES = 32

OLD_SECRET_SIGNS_FOR = timedelta(hours=24)
"""After a rotation, requests carry two signatures for this long."""
