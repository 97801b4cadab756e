"""/livez, /readyz, /health and /metrics: the same four in every process."""

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline import metrics
from pipeline.health import Health


def health_routes(health: Health) -> list[Route]:
    """/livez asks nothing outside the process: to restart it does not mend a broker that is away."""

    async def livez(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        return JSONResponse(health.summary(), status_code=200 if health.is_ready else 503)

    async def summary(_: Request) -> Response:
        return JSONResponse(health.summary())

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/health", summary),
        Route("/metrics", _metrics),
    ]


async def _metrics(_: Request) -> Response:
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
