"""Which URLs a hook may have, before anybody has looked at addresses. Pure.

A URL is read strictly: what two parsers could understand in two ways is refused. `./headrace hooks add` refuses such a
URL at once. event_relay reads it by the same rules before it sends, and refuses more: see event_relay/destinations.py.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_CHARACTERS = 2048
_DEFAULT_PORTS = {"https": 443, "http": 80}
# Of the ports below 1024, the others speak other protocols, and could take a request for one of theirs.
_SYSTEM_PORTS = range(1, 1024)
# What a URL may consist of, per RFC 3986. Without the backslash, which some parsers take for a slash, and without
# spaces and control characters, which some drop.
_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# A host whose last label looks like a number is an IPv4 address to the resolver: 127.1, 0x7f.1, 2130706433.
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")


class InvalidUrl(ValueError):
    """The message says why, and quotes nothing of the URL: its user and its query may be secrets."""


@dataclass(frozen=True, slots=True)
class HookUrl:
    scheme: str
    """https or http."""
    host: str
    """In lower case; an IPv6 address without its brackets."""
    port: int
    address: Address | None
    """The host, if it is an address and no name."""


def parse_hook_url(url: str) -> HookUrl:
    """Raises InvalidUrl."""
    if len(url) > MAX_CHARACTERS:
        raise InvalidUrl(f"a URL has at most {MAX_CHARACTERS:,} characters")
    if not _CHARACTERS.fullmatch(url):
        raise InvalidUrl(
            "a URL has only letters, digits and -._~:/?#[]@!$&'()*+,;=%: encode others with %, a name with punycode"
        )
    scheme, host, port = _parts(url)
    return HookUrl(scheme, host, port, _address(host))


def _parts(url: str) -> tuple[str, str, int]:
    """Scheme, host and port."""
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        why = "an IPv6 address stands in brackets, and a port is a number up to 65535"
        raise InvalidUrl(f"the URL has no valid host or port: {why}") from None
    if split.scheme not in _DEFAULT_PORTS or not url.startswith(f"{split.scheme}://"):
        raise InvalidUrl("the URL begins with neither https:// nor http://")
    if "@" in split.netloc:
        raise InvalidUrl("the URL has a user or a password; a receiver recognises us by the signature")
    if "#" in url:
        raise InvalidUrl("the URL has a fragment (#), which no server would see")
    if port == 0 or split.netloc.endswith(":"):
        raise InvalidUrl("the URL has port 0, or a colon without a port")
    if port in _SYSTEM_PORTS and port not in _DEFAULT_PORTS.values():
        raise InvalidUrl(f"port {port} is not for http: use 443, 80, or one from 1024")
    return split.scheme, split.hostname or "", port or _DEFAULT_PORTS[split.scheme]


def _address(host: str) -> Address | None:
    """Raises InvalidUrl for what is neither address nor name, or an address not in its usual form."""
    if not host:
        raise InvalidUrl("the URL names no host")
    if ":" in host:
        try:
            return ipaddress.IPv6Address(host if "%" not in host else "")
        except ValueError:
            raise InvalidUrl("the host is no IPv6 address, or has a zone") from None
    labels = host.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return ipaddress.IPv4Address(host)
        except ValueError:
            raise InvalidUrl("the host is no IPv4 address of four decimal numbers") from None
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidUrl("the URL has no valid host")
    return None
