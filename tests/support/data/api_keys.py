"""API keys, as the stack writes them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.contract.api_keys import ApiKey, encode_keys, hash_secret, parse_token

MADE_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def key_of(
    token: str, client: str = "shop", scopes: Sequence[str] = ("orders:write",), orders_per_s: int | None = None
) -> ApiKey:
    """The key file's entry for `token`."""
    parts = parse_token(token)
    assert parts
    return ApiKey(parts[0], client, tuple(scopes), hash_secret(parts[1]), MADE_AT, orders_per_s)  # type: ignore[arg-type]


def write_keys(path: Path, *keys: ApiKey) -> None:
    """Replace the key file."""
    new = path.with_suffix(".new")
    new.write_text(encode_keys(keys))
    new.replace(path)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
