"""/livez, /readyz, /health and /metrics: the same four in every process."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.process import metrics
from pipeline.process.health import Health
from web.access.clients import Guard
from web.documents.health_operations import HEALTH_OPERATIONS
from web.requests.routes import make_routes


def health_routes(health: Health, guard: Guard) -> list[Route]:
    """/livez asks nothing outside the process: a restart does not bring back a broker that is away.

    Supervisors and load balancers have no key, so /livez and /readyz are public, and say one word. Operators alone see
    what is wrong, in the words of the servers inside.
    """

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        return JSONResponse({"status": health.status}, status_code=200 if health.is_ready else 503)

    async def summary(_: Request) -> Response:
        return JSONResponse(health.summary())

    pages = {"getLiveness": livez, "getReadiness": readyz, "getHealth": summary, "getMetrics": _metrics}
    return make_routes(HEALTH_OPERATIONS, pages, guard)


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
