"""`up`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from stack.errors import HeadraceError
from stack.home.directory import Home, require_checkout


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once all is ready; it runs on.")] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="With RabbitMQ's management UI (starts 3 s, stops 5 s slower).")
    ] = False,
    docker: Annotated[bool, typer.Option("--docker", help="In containers, as docker-compose.yml says.")] = False,
) -> None:
    """Start PostgreSQL, RabbitMQ, Redis and the four services; install what is missing."""
    from stack.containers import containers
    from stack.run.up import up as run

    if docker and ui:
        cause = "the containers publish the two APIs and nothing else"
        raise HeadraceError("--ui is not for --docker", cause, "./headrace up --docker, or ./headrace up --ui")
    if docker:
        require_checkout("up --docker")
        raise typer.Exit(containers.up(Home.current(), detach=detach))
    if containers.is_used(Home.current()):
        raise HeadraceError("headrace is running already, in containers", fix="./headrace down, then again")
    if ui:
        from stack.servers.rabbitmq import UI_VARIABLE

        os.environ[UI_VARIABLE] = "1"

    raise typer.Exit(run(Home.current(), detach=detach))
