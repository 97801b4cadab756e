"""`demo`."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.commands.options import Json
from stack.home.directory import Home


def demo(
    orders: Annotated[int, typer.Option(min=1, help="How many orders to send.")] = 20_000,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="How many connections send them.")] = 64,
    products: Annotated[int, typer.Option(min=1, help="Over how many products.")] = 100,
    as_json: Json = False,
) -> None:
    """Drive real orders through the running stack and account for every one. Exit code 1: lost, twice or oversold."""
    from stack.home.key_file import own_token
    from stack.operate.demo import demo as run
    from stack.run.status import running_urls

    home = Home.current()
    urls = running_urls(home)
    token = own_token(home)
    raise typer.Exit(run(urls, orders=orders, clients=clients, products=products, token=token, as_json=as_json))
