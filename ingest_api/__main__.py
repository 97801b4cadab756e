"""python -m ingest_api"""

import asyncio

from ingest_api.app import make_app
from ingest_api.settings import IngestSettings
from pipeline import lifecycle
from web import server


async def main(settings: IngestSettings, stop: asyncio.Event) -> None:
    await server.serve(make_app(settings), settings.host, settings.port, stop, grace_s=settings.stop_grace_s)


if __name__ == "__main__":
    lifecycle.run("ingest_api", IngestSettings, main)
