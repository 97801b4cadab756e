"""One attempt at a webhook: a POST, with a deadline for everything that a receiver can do to us.

The answer's status decides, as soon as it is here. Of the body only the first bytes are read, for people to see: a
receiver that lies about its length, or sends a gigabyte, costs no more than one that sends a few bytes.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
from yarl import URL

from event_relay.destinations import AddressRefused, CheckedResolver, Destination
from event_relay.retry import Answer
from pipeline.process.error_text import one_line
from pipeline.process.version import project_version

CONNECT_TIMEOUT_S, WHOLE_TIMEOUT_S = 2.0, 10.0
MOST_BODY_BYTES = 4096
# For the body, after the status. If it takes longer, the status counts all the same, and the connection is closed.
_BODY_TIMEOUT_S = 1.0
# Servers close idle connections after 2 s or more. Ours end before: one that is closed as we send costs a retry.
_KEEP_ALIVE_S = 1.0


def _what_happened(error: Exception, timeout_s: float) -> str:
    """For people, in one line. Never the library's own words about a request: they may quote the whole URL."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"not connected within {CONNECT_TIMEOUT_S:g} s"
        case TimeoutError():
            return f"no answer within {timeout_s:.3g} s"
        case aiohttp.ClientConnectorDNSError(os_error=AddressRefused() as refused):
            return str(refused)
        case aiohttp.ClientConnectorDNSError(os_error=OSError() as cause):
            return f"the name was not resolved: {one_line(cause.strerror or type(cause).__name__)}"
        case aiohttp.ClientConnectorCertificateError():
            return f"TLS: {one_line(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError(os_error=OSError() as cause):
            return f"TLS: {one_line(cause.strerror or cause)}"
        case aiohttp.ClientConnectorError(os_error=OSError() as cause):
            return f"not connected: {one_line(cause.strerror or type(cause).__name__)}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "the receiver hung up without an answer"
        case aiohttp.ClientResponseError():
            return "the receiver's answer is no HTTP"
        case _:
            return type(error).__name__


# ── I/O below


class WebhookClient:
    """Sends requests. It keeps no cookies, follows no redirects, uses no proxy, and unpacks nothing."""

    def __init__(self, sessions: Mapping[str, aiohttp.ClientSession]) -> None:
        """`sessions`: by scheme."""
        self._sessions = sessions

    async def attempt(
        self, destination: Destination, headers: Mapping[str, str], body: bytes, timeout_s: float = WHOLE_TIMEOUT_S
    ) -> Answer:
        """Send one request. Raises nothing that a receiver or the network can cause."""
        began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        url = URL(destination.url, encoded=True)
        try:
            async with self._sessions[destination.scheme].post(
                url, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                answered, error = await _first_bytes(response)
                if error is not None:
                    response.close()
                return Answer(
                    status=response.status,
                    took_s=time.monotonic() - began,
                    first_bytes=answered,
                    retry_after=response.headers.get("retry-after"),
                    error=error,
                )
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # ValueError: a host that the IDNA codec refuses, say.
            return Answer(None, time.monotonic() - began, error=_what_happened(error, timeout_s))


@asynccontextmanager
async def webhook_client(*, allow_private: bool) -> AsyncIterator[WebhookClient]:
    """`allow_private`: see destinations.py."""
    async with AsyncExitStack() as stack:
        trusted = ssl.create_default_context()
        sessions = {}
        for scheme in ("https", "http"):
            connector = aiohttp.TCPConnector(
                resolver=CheckedResolver(scheme, allow_private=allow_private),
                use_dns_cache=False,
                ssl=trusted,
                limit=0,  # each hook sends one request at a time
                keepalive_timeout=_KEEP_ALIVE_S,
                timeout_ceil_threshold=WHOLE_TIMEOUT_S + 1,  # aiohttp rounds longer timeouts up to whole seconds
            )
            sessions[scheme] = await stack.enter_async_context(_session(connector))
        yield WebhookClient(sessions)


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=MOST_BODY_BYTES,
        headers={
            "content-type": "application/json",
            "user-agent": f"headrace/{project_version()}",
            "accept-encoding": "identity",
        },
    )


async def _first_bytes(response: aiohttp.ClientResponse) -> tuple[bytes, str | None]:
    """The first bytes of the body, and why its connection cannot be used again."""
    content, got = response.content, bytearray()
    if content.at_eof():
        return b"", None
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            while len(got) < MOST_BODY_BYTES:
                chunk = await content.read(MOST_BODY_BYTES - len(got))
                if not chunk:
                    return bytes(got), None
                got += chunk
    except TimeoutError:
        return bytes(got), "the answer's body did not end in time"
    except (aiohttp.ClientError, OSError):
        return bytes(got), "the answer's body broke off"
    return bytes(got), None if content.at_eof() else f"the answer is longer than {MOST_BODY_BYTES} bytes"
