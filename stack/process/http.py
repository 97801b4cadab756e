"""HTTP calls to our own services, with the standard library alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

# Ignores the environment's proxies: these calls stay on the loopback.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(url: str, timeout_s: float, token: str | None = None) -> tuple[int, str]:
    """Status and body, whatever the status. `token`: of an API key. Raises OSError if nobody answers."""
    return _exchange(urllib.request.Request(url, headers=authorization(token)), timeout_s)  # noqa: S310 - our own http:// URLs


def post_json(url: str, body: object, timeout_s: float, token: str | None = None) -> tuple[int, str]:
    """POST a JSON body; otherwise as `get`."""
    headers = {"Content-Type": "application/json", **authorization(token)}
    return _exchange(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout_s)  # noqa: S310


def authorization(token: str | None) -> dict[str, str]:
    """The headers that show an API key; none without one."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def _exchange(request: urllib.request.Request, timeout_s: float) -> tuple[int, str]:
    try:
        with OPENER.open(request, timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
