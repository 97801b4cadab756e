"""`./headrace demo`: drives orders through the running stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proof.orders import MAX_LINES
from stack.commands.options import Json
from stack.home.directory import Home


def demo(
    orders: Annotated[int, typer.Option(min=1, help="How many orders to send.")] = 20_000,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="How many connections to send them on.")] = 64,
    products: Annotated[int, typer.Option(min=1, help="How many products to spread them over.")] = 100,
    lines: Annotated[
        int, typer.Option(min=1, max=MAX_LINES, help="How many lines each order has, of different products.")
    ] = 1,
    as_json: Json = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the report into this SVG file.")] = None,
) -> None:
    """Send real orders to the running stack and account for each. Exits 1 if one was lost, duplicated, oversold
    or stored in part.
    """
    from stack.home.key_file import own_token
    from stack.operate.demo.demo import demo as run
    from stack.run.status import running_urls

    home = Home.current()
    urls = running_urls(home)
    token = own_token(home)
    code = run(
        urls, orders=orders, clients=clients, products=products, lines=lines, token=token, as_json=as_json, svg=svg
    )
    raise typer.Exit(code)
