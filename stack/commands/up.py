"""`./headrace up`: starts the stack."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from stack.errors import HeadraceError
from stack.home.directory import Home, require_checkout


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once everything is ready. The stack keeps running.")
    ] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="Run RabbitMQ's management UI too (3 s more to start, 5 s more to stop).")
    ] = False,
    docker: Annotated[bool, typer.Option("--docker", help="Run in containers, from docker-compose.yml.")] = False,
) -> None:
    """Start PostgreSQL, RabbitMQ, Redis and all services. Installs missing servers."""
    from stack.containers import containers
    from stack.run.up import up as run

    if docker and ui:
        cause = "the containers publish the two APIs and nothing else"
        raise HeadraceError("--ui does not work with --docker", cause, "./headrace up --docker, or ./headrace up --ui")
    if docker:
        require_checkout("up --docker")
        raise typer.Exit(containers.up(Home.current(), detach=detach))
    if containers.is_used(Home.current()):
        raise HeadraceError("headrace is running already, in containers", fix="./headrace down, then again")
    if ui:
        from stack.servers.rabbitmq import UI_VARIABLE

        os.environ[UI_VARIABLE] = "1"

    raise typer.Exit(run(Home.current(), detach=detach))
