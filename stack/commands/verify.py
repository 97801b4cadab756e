"""`verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.commands.options import Json
from stack.home.directory import Home


def verify(
    lag: Annotated[
        float, typer.Option(min=0, max=1e9, help="How many seconds an order may be without a verdict.")
    ] = 60,
    repair: Annotated[
        bool, typer.Option("--repair", help="First send once more what has no verdict, and wait for the verdicts.")
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(help="Another database than the running stack's, without a password: else DATABASE_URL."),
    ] = None,
    amqp_url: Annotated[
        str | None, typer.Option(help="The broker of that database, for --repair. As above: else AMQP_URL.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit the database of a running system: each order, verdict and product. Exit code 1: something is wrong."""
    from stack.operate.verify import verify as run

    servers = {"database_url": database_url, "amqp_url": amqp_url}
    raise typer.Exit(run(Home.current(), lag_s=lag, repair=repair, as_json=as_json, **servers))
