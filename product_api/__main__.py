"""python -m product_api"""

import asyncio

from pipeline.process import lifecycle
from product_api.app import make_app
from product_api.settings import ProductSettings
from web.serving import server
from web.serving.application import health_app


async def main(settings: ProductSettings, stop: asyncio.Event) -> None:
    app, grace_s, most = make_app(settings), settings.stop_grace_s, settings.max_connections
    probes = server.serve_health(health_app(app.state.health), settings.health_host, settings.health_port)
    # Probes are answered to the end, while requests in hand finish: a process that drains is alive.
    async with lifecycle.background(probes):
        await server.serve(
            app,
            settings.host,
            settings.port,
            stop,
            grace_s=grace_s,
            max_connections=most,
            hosts=app.state.hosts,
            public_path=settings.public_path,
        )


if __name__ == "__main__":
    lifecycle.run("product_api", ProductSettings, main)
