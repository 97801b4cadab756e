"""UUIDs as clients write them."""

import re

from starlette.requests import Request

from web.problems import problems

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)


def canonical_id(text: str) -> str | None:
    """The id in lower case; None if it is not a UUID in its usual form.

    `uuid.UUID` accepts more: braces, urn:uuid:, no dashes, digits of other scripts.
    """
    return text.lower() if _UUID.fullmatch(text) else None


def id_in_path(request: Request, what: str) -> str:
    """The path parameter `{what}_id` in lower case. Raises Problem (404) if it is not an id."""
    text: str = request.path_params[f"{what}_id"]
    if (found := canonical_id(text)) is None:
        raise problems.not_found(f"{what} {text}")
    return found
