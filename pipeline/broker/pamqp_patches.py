"""Two corrections of pamqp 4.0, the codec under aio-pika. It offers no hook for either.

`apply` makes them; pipeline.broker.connection calls it before it first connects. Only this module changes pamqp.

1. A message whose properties cannot be decoded. pamqp raises, and the client takes that for the end of the connection.
   So every consumer that is given the message would die, with all that it had prefetched, until the broker
   dead-letters them all (P10). Patched, the message has no properties, and so no schema version: it is parked.
2. A broker that refuses a virtual host (missing, forbidden, full) answers Open with Close, which says why. aiormq 7.2
   expects no Close there: it would raise an InvalidFrameError with an object's address in place of the reason.
"""

import structlog
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader

from pipeline.process.error_text import describe

log = structlog.get_logger()

# Class, weight and body size, which pamqp has read by the time that it reads the properties.
_HEADER_BYTES = 12
_CLOSE = "Connection.Close"

_unmarshal = ContentHeader.unmarshal


def apply() -> None:
    """Patch pamqp for this process. Safe to repeat."""
    ContentHeader.unmarshal = _unmarshal_what_can_be  # type: ignore[assignment]
    if _CLOSE not in Connection.Open.valid_responses:
        Connection.Open.valid_responses.append(_CLOSE)


def _unmarshal_what_can_be(header: ContentHeader, data: bytes) -> None:
    """Decode a message header as pamqp does, but treat undecodable properties as none."""
    try:
        _unmarshal(header, data)
    except Exception as error:
        if len(data) < _HEADER_BYTES:
            raise
        header.properties = Basic.Properties()
        log.error("a message has properties that cannot be read", error=describe(error))
