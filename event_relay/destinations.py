"""Checks where webhooks may go. The URL of a hook must not make event_relay reach our own servers.

- A URL is read strictly, see pipeline/contract/hook_urls.py: what two parsers could understand in two ways is refused.
- A name is resolved once for each connection; those that wait for the same name at once share the answer. The addresses
  are checked, and the connection goes to one of them. So a name that resolves to another address the next moment gains
  nothing. The Host header and the TLS name stay the URL's.
- Public addresses only, by https, unless EVENT_RELAY_ALLOW_PRIVATE_ADDRESSES is set. Then private, loopback and
  link-local ones too, and http, but only to them: an order never crosses the internet unencrypted.
- Redirects are not followed, see delivery.py: one could lead to an address that was not checked.
"""

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipeline.contract.hook_urls import Address, InvalidUrl, parse_hook_url

AddressInfo: TypeAlias = tuple[Any, ...]
"""One result of getaddrinfo."""


class Reach(Enum):
    """Whether an address is public, private or of no host."""

    PUBLIC = "public"
    PRIVATE = "private"
    """We ourselves, or our own network."""
    NOBODY = "nobody"
    """No single host: multicast, broadcast, unspecified, reserved, examples of documentation."""


class Refused(ValueError):
    """A webhook may not go there. The message says why; it quotes neither user nor query of the URL."""


class AddressRefused(OSError):
    """The name of a URL resolves to addresses where no webhook may go. An OSError, as aiohttp expects of resolvers."""


@dataclass(frozen=True, slots=True)
class Destination:
    url: str
    scheme: str
    host: str
    port: int

    @property
    def shown(self) -> str:
        """For logs: without path and query, which may hold a token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


_PRIVATE = [
    ipaddress.ip_network(it)
    for it in (
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT; clouds use it inside as well
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata servers of clouds
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
    )
]
_NOBODY = [
    ipaddress.ip_network(it)
    for it in (
        "0.0.0.0/8",  # Linux takes 0.0.0.0 for loopback
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other tunnels: an IPv4 address is inside
        "2001:db8::/32",
        "2002::/16",  # 6to4: the same
        "3fff::/20",
    )
]
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# A network without IPv4 reaches an IPv4 host by this prefix, so what counts is the address inside.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def reach_of(address: Address) -> Reach:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            # No resolver returns a mapped address. A URL that contains one tries to get past a check.
            return Reach.NOBODY if reach_of(address.ipv4_mapped) is Reach.NOBODY else Reach.PRIVATE
        if address in _NAT64:
            return reach_of(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if any(address in network for network in _PRIVATE):
        return Reach.PRIVATE
    is_routed = address.version == 4 or address in _GLOBAL_UNICAST
    return Reach.PUBLIC if is_routed and not any(address in network for network in _NOBODY) else Reach.NOBODY


def may_go_to(address: Address, scheme: str, *, allow_private: bool) -> bool:
    reach = reach_of(address)
    return (reach is Reach.PUBLIC and scheme == "https") or (reach is Reach.PRIVATE and allow_private)


def destination_of(url: str, *, allow_private: bool) -> Destination:
    """Read the URL of a hook. An address in it is checked here, a name when it is resolved. Raises Refused."""
    try:
        read = parse_hook_url(url)
    except InvalidUrl as error:
        raise Refused(str(error)) from None
    if read.scheme == "http" and not allow_private:
        raise Refused("the URL must begin with https://")
    if read.address is not None and not may_go_to(read.address, read.scheme, allow_private=allow_private):
        raise Refused(_why_not(read.scheme, [read.address], allow_private=allow_private))
    as_sent = URL(url, encoded=True)
    if (as_sent.scheme, as_sent.raw_host, as_sent.port) != (read.scheme, read.host, read.port):
        raise Refused("the URL can be understood in two ways")
    return Destination(url, read.scheme, read.host, read.port)


def _why_not(scheme: str, addresses: list[Address], *, allow_private: bool) -> str:
    if scheme == "http" and any(reach_of(it) is Reach.PUBLIC for it in addresses):
        return "http is for private addresses alone: use https"
    if not allow_private and any(reach_of(it) is Reach.PRIVATE for it in addresses):
        return "the address is private; EVENT_RELAY_ALLOW_PRIVATE_ADDRESSES would allow it"
    return "the address is reserved: no host can have it"


# ── I/O below

# A name server that does not answer holds a thread for half a minute. The event loop's own threads are few: it would
# soon hold all of them, and with them the hooks whose names other servers serve.
_MOST_LOOKUPS = 64

Question: TypeAlias = tuple[str, int, socket.AddressFamily]
"""Host, port, family."""


class CheckedResolver(AbstractResolver):
    """Resolves names for aiohttp, and leaves out every address where no webhook may go.

    aiohttp connects to what this returns, and asks again for each new connection.
    """

    def __init__(self, scheme: str, *, allow_private: bool) -> None:
        self._scheme, self._allow_private = scheme, allow_private
        self._pending: dict[Question, asyncio.Future[list[AddressInfo]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError: the name has no address, or AddressRefused: none where a webhook may go."""
        found = await self._look_up((host, port, family))
        addresses = [ipaddress.ip_address(sockaddr[0]) for _, _, _, _, sockaddr in found if _is_plain(sockaddr)]
        allowed = [it for it in addresses if may_go_to(it, self._scheme, allow_private=self._allow_private)]
        if not allowed:
            raise AddressRefused(_why_not(self._scheme, addresses, allow_private=self._allow_private))
        return [_as_result(host, port, it) for it in dict.fromkeys(allowed)]

    async def close(self) -> None:
        """Nothing is open."""

    async def _look_up(self, question: Question) -> list[AddressInfo]:
        """The answer to the look-up that is pending, or to a new one.

        A hook gives up long before its name server does, and tries again. So it waits for the same answer each time:
        a silent name server holds one thread for each host that it serves, however many hooks go there.
        """
        answer = self._pending.get(question)
        if answer is None:
            if len(self._pending) >= _MOST_LOOKUPS:
                raise OSError("too many names wait for their name servers")
            answer = self._pending[question] = self._ask(question)
        # Shielded: one that gives up must not end the look-up for the others.
        return await asyncio.shield(answer)

    def _ask(self, question: Question) -> "asyncio.Future[list[AddressInfo]]":
        """Ask in a thread that does not keep the process from ending, as an executor's would."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[AddressInfo]] = loop.create_future()

        def settle(found: list[AddressInfo], error: Exception | None) -> None:
            del self._pending[question]
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)
                answer.exception()  # retrieved: if all have given up, nobody needs it

        def run() -> None:
            found, error = [], None
            try:
                found = _addresses_of(question)
            except Exception as raised:
                error = raised
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                loop.call_soon_threadsafe(settle, found, error)

        threading.Thread(target=run, name="resolve", daemon=True).start()
        return answer


def _addresses_of(question: Question) -> list[AddressInfo]:
    host, port, family = question
    return [*socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)]


def _is_plain(sockaddr: tuple[object, ...]) -> bool:
    """Whether it is an address without a zone. One with a zone is link-local, and means another host elsewhere."""
    return "%" not in str(sockaddr[0]) and (len(sockaddr) < 4 or not sockaddr[3])


def _as_result(host: str, port: int, address: Address) -> ResolveResult:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=numeric)
