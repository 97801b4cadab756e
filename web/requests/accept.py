"""The Accept header (RFC 9110, section 12.5.1), as far as choosing between JSON and a page or a stream takes it."""

import re
from collections.abc import Sequence

_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


def prefers_html(accept: Sequence[str]) -> bool:
    """Whether a client with these Accept headers likes HTML better than JSON, as browsers do. Equal is JSON.

    A part that cannot be read counts as absent.
    """
    weights = dict(_weights(accept))
    return _weight("text", "html", weights) > _weight("application", "json", weights)


def prefers_event_stream(accept: Sequence[str]) -> bool:
    """Whether a client with these Accept headers asks for a stream of events, as EventSource does. One that names JSON
    as well, and likes it as much, gets JSON. So does one that takes anything: a stream has no end.
    """
    weights = dict(_weights(accept))
    wanted = weights.get("text/event-stream", 0.0)
    return wanted > weights.get("application/json", 0.0) and wanted >= _weight("application", "json", weights)


def _weights(accept: Sequence[str]) -> list[tuple[str, float]]:
    """Each media range with its weight. Parameters of a media type other than `q` are ignored."""
    found = []
    for part in ",".join(accept).split(","):
        media_range, *parameters = (it.strip().lower() for it in part.split(";"))
        quality = next((it[2:] for it in parameters if it.startswith("q=")), "1")
        if media_range and _QUALITY.fullmatch(quality):
            found.append((media_range, float(quality)))
    return found


def _weight(main: str, sub: str, weights: dict[str, float]) -> float:
    """The weight of the most specific range that has the media type; 0 if none has it. No header at all is `*/*`."""
    ranges = (f"{main}/{sub}", f"{main}/*", "*/*")
    return next((weights[it] for it in ranges if it in weights), 0.0)
