"""Checks the Host of requests to a service that asks for no key, because only this machine reaches it.

A page of any web site can make a browser on this machine send requests here. Its own name only needs to resolve to
127.0.0.1 the second time (DNS rebinding). To the browser that is the page's own site, so the page may read the answers.
The Host is then the site's name, and such a request is refused.
"""

import re
from collections.abc import Callable, Collection
from ipaddress import IPv6Address, ip_address

from web.problems import problems
from web.problems.problems import Problem

# Limits what clients can fill with allowed names: 127.0.0.1 to 127.255.255.254, and every port.
_MAX_REMEMBERED = 64
_PORT = re.compile(r":[0-9]*$")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`. A name other than localhost may mean any address."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


class Hosts:
    """The host names that one listener answers to."""

    def __init__(self, others: Collection[str] = (), is_checked: Callable[[], bool] = lambda: True) -> None:
        """`others`: names besides those of the loopback, without ports. `is_checked`: whether hosts matter now."""
        self._others = {name.lower().rstrip(".") for name in others}
        self._is_checked = is_checked
        self._known: set[bytes] = set()

    def refusal(self, host: bytes) -> Problem | None:
        """The problem to answer to a request with this Host; None: it is allowed. `host`: well-formed."""
        if host in self._known or not self._is_checked():  # 0.1 µs, as nearly always
            return None
        text = host.decode("latin-1").strip(" \t")
        name = _PORT.sub("", text).strip("[]").lower().rstrip(".")
        if not (is_loopback(name) or name in self._others):
            return problems.misdirected(text)
        if len(self._known) < _MAX_REMEMBERED:
            self._known.add(host)
        return None
