"""`./headrace verify`: audits the database."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.commands.options import Json
from stack.home.directory import Home


def verify(
    lag: Annotated[float, typer.Option(min=0, max=1e9, help="Seconds that an order may wait for its verdict.")] = 60,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First resend orders without a verdict, and forgotten cancellations, and wait for them.",
        ),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Audit this database. No password in it; for that, set DATABASE_URL. Default: the running stack's."
        ),
    ] = None,
    amqp_url: Annotated[
        str | None,
        typer.Option(help="That database's broker, for --repair. No password in it; for that, set AMQP_URL."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit every order, verdict and product in the database of a running system. Exits 1 if something is wrong."""
    from stack.operate.verify import verify as run

    servers = {"database_url": database_url, "amqp_url": amqp_url}
    raise typer.Exit(run(Home.current(), lag_s=lag, repair=repair, as_json=as_json, **servers))
