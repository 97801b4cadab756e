"""`docs`."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.home.directory import Home, require_checkout


def docs(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port on 127.0.0.1.")] = 8000,
    is_opened: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Only build it, into .headrace/site.")] = False,
) -> None:
    """Build the documentation as a site and show it until Ctrl-C. Exits 1 if a link or a page is broken."""
    require_checkout("docs")
    from stack.develop.docs import build_site, serve_site

    home = Home.current()
    site = build_site(home)
    if build:
        typer.echo(f"{site}/index.html")
    else:
        serve_site(site, port, is_opened=is_opened)
