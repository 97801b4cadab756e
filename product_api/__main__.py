"""python -m product_api"""

import asyncio

from pipeline import lifecycle
from product_api.app import make_app
from product_api.settings import ProductSettings
from web import server


async def main(settings: ProductSettings, stop: asyncio.Event) -> None:
    await server.serve(make_app(settings), settings.host, settings.port, stop, grace_s=settings.stop_grace_s)


if __name__ == "__main__":
    lifecycle.run("product_api", ProductSettings, main)
