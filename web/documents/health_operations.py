"""/livez, /readyz, /health and /metrics as both APIs document them. web.serving.health answers them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from web.access.clients import OPS, PUBLIC
from web.requests.operations import Answer, Content, Operation

TAG = "Health"
TAG_TEXT = "For what runs the service. Every process has these four."


class Alive(msgspec.Struct):
    """The process's loop runs."""

    status: Literal["alive"]


class Readiness(msgspec.Struct):
    """Whether the process can do its work. `/health` says what is missing."""

    status: Literal["ready", "not ready"]


class Summary(msgspec.Struct):
    """The process, and the parts that it needs."""

    service: str
    status: Literal["ready", "not ready"]
    parts: Annotated[dict[str, str], Meta(description="Each `ok`, or what is wrong with it, for a person.")]
    uptime_s: float


_READY = Summary("ingest_api", "ready", {"broker": "ok", "product events": "ok"}, 86_400.5)
_NOT_READY = Summary("ingest_api", "not ready", {"broker": "not connected yet", "product events": "ok"}, 0.2)
_METRICS = """\
# HELP headrace_orders_refused_total Orders refused, by reason.
# TYPE headrace_orders_refused_total counter
headrace_orders_refused_total{reason="out-of-stock"} 3.0
"""

HEALTH_OPERATIONS = (
    Operation(
        "getLiveness",
        "GET",
        "/livez",
        PUBLIC,
        TAG,
        "Is the process alive?",
        "Asks nothing outside the process: a restart would not bring a lost broker back. Any query is ignored.",
        answers=(Answer(200, "It is.", (Content(Alive, {"Alive": Alive("alive")}),)),),
        ignores_query=True,
    ),
    Operation(
        "getReadiness",
        "GET",
        "/readyz",
        PUBLIC,
        TAG,
        "Can it do its work?",
        "200 if all that it cannot do without is there. What is missing, `/health` says. Any query is ignored.",
        answers=(
            Answer(200, "It can.", (Content(Readiness, {"Ready": Readiness("ready")}),)),
            Answer(503, "It cannot.", (Content(Readiness, {"Not ready": Readiness("not ready")}),)),
        ),
        ignores_query=True,
    ),
    Operation(
        "getHealth",
        "GET",
        "/health",
        OPS,
        TAG,
        "What is wrong, if anything?",
        "The parts that the process needs, and what is wrong with each. 200 in any case.",
        answers=(
            Answer(
                200,
                "The parts, and how they are.",
                (Content(Summary, {"Ready": _READY, "Not ready": _NOT_READY}),),
            ),
        ),
    ),
    Operation(
        "getMetrics",
        "GET",
        "/metrics",
        OPS,
        TAG,
        "Prometheus metrics",
        answers=(
            Answer(200, "In the text format.", (Content(str, {"A counter": _METRICS}, media_type="text/plain"),)),
        ),
    ),
)
