"""Requests that wait: the query parameter `wait`, and clients that leave meanwhile."""

import re

from starlette.types import Receive

from web.problems import problems

MAX_WAIT_S = 30

# A number, as any client's language writes it: 1e-05 is one. float() itself accepts more.
_SECONDS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_CHARACTERS = 64


def parse_wait(text: str | None) -> float:
    """How many seconds to wait. Raises Problem (422)."""
    if text is None:
        return 0.0
    is_number = len(text) <= _MAX_CHARACTERS and _SECONDS.fullmatch(text)
    if not is_number or not 0 <= float(text) <= MAX_WAIT_S:
        raise problems.invalid_parameter("wait", f"wait must be a number of seconds from 0 to {MAX_WAIT_S}.")
    return float(text)


# ── I/O below


async def has_left(receive: Receive) -> None:
    """Return once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass  # a body: GET has no use for one
