"""`keys`: add, list, revoke, open, rotate-ids."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.commands.options import Json
from stack.home.directory import Home

keys = typer.Typer(help="API keys: who may use the two APIs.", no_args_is_help=True)


@keys.command("add")
def add(
    client: Annotated[str, typer.Argument(help="Whose key it is. A client may have several.")],
    scope: Annotated[
        list[str], typer.Option(help="orders:write, orders:read, products:write or ops; may be given again.")
    ] = [],  # noqa: B006 - typer copies it
    limit: Annotated[int | None, typer.Option(help="At most so many orders/s, to each ingest_api.")] = None,
) -> None:
    """Make a key and print it, once: KEY=$(./headrace keys add shop --scope orders:write). The first closes the door.

    Products can be read with any key. `ops` is for /metrics and /health; with orders:read, it reads the orders of all.

    A client's name is its identity for ever. The next holder of a key of that name gets its orders and its
    Idempotency-Keys, however long ago the last key was revoked. Never give a name to another client.
    """
    from stack.operate.keys import add as run

    raise typer.Exit(run(Home.current(), client, scope, limit))


@keys.command("list")
def list_all(as_json: Json = False) -> None:
    """Show all keys, but for their secrets, which nobody has."""
    from stack.operate.keys import show as run

    raise typer.Exit(run(Home.current(), as_json=as_json))


@keys.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")]) -> None:
    """Remove a key, within a second also from services that run.

    The last one closes the door to all but the stack itself, also after a restart: to do without keys, say `keys open`.
    """
    from stack.operate.keys import revoke as run

    raise typer.Exit(run(Home.current(), key_id))


@keys.command("open")
def open_door() -> None:
    """Do without keys: remove all of them. From the next `up` on, who can reach this machine's loopback is let in.

    Only while nothing runs. Nothing else opens the door: without its key file, a stack that had keys does not start.
    """
    from stack.operate.keys import open_door as run

    raise typer.Exit(run(Home.current()))


@keys.command("rotate-ids")
def rotate_ids(
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Forget the old keys. Not before a day has passed since the rotation.")
    ] = False,
) -> None:
    """Replace ORDER_ID_KEY, which signs order ids, without a second order for any retry. Takes effect at the next `up`.

    The new key mints; the old ones go on recognising their ids and finding the orders of retries, until --drop-old.
    """
    from stack.home.credentials import rotate_order_ids
    from stack.terminal import say

    count = rotate_order_ids(Home.current().credentials, drop_old=drop_old)
    say(f"keys in ORDER_ID_KEY: {count}; in use after ./headrace down and ./headrace up")
    if count > 1:
        say("a day from then on: ./headrace keys rotate-ids --drop-old")
