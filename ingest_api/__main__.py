"""python -m ingest_api"""

import asyncio

from ingest_api.app import make_app
from ingest_api.settings import IngestSettings
from pipeline import lifecycle
from web import server


async def main(settings: IngestSettings, stop: asyncio.Event) -> None:
    app, grace_s, most = make_app(settings, stop), settings.stop_grace_s, settings.max_connections
    await server.serve(app, settings.host, settings.port, stop, grace_s=grace_s, max_connections=most)


if __name__ == "__main__":
    lifecycle.run("ingest_api", IngestSettings, main)
