"""`./headrace keys`: add, list and revoke API keys, do without them, and rotate ORDER_ID_KEY."""

from __future__ import annotations

from typing import Annotated

import typer

from stack.commands.options import Json
from stack.home.directory import Home

keys = typer.Typer(help="Manage API keys: which clients may use the two APIs.", no_args_is_help=True)


@keys.command("add")
def add(
    client: Annotated[str, typer.Argument(help="The client that the key is for. A client may have several keys.")],
    scope: Annotated[
        list[str], typer.Option(help="orders:write, orders:read, products:write or ops. May be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    limit: Annotated[
        int | None, typer.Option(help="Orders per second that each ingest_api accepts from the client.")
    ] = None,
) -> None:
    """Create a key and print it, once: KEY=$(./headrace keys add shop --scope orders:write).

    From the first key on, the APIs refuse requests without one. Any key reads products. `ops` opens /metrics and
    /health; with orders:read it also reads the orders of all clients.

    A client's name is its identity for ever: a later key of that name gets the same orders and Idempotency-Keys,
    however long ago the last key was revoked. Never give a name to another client.
    """
    from stack.operate.keys import add as run

    raise typer.Exit(run(Home.current(), client, scope, limit))


@keys.command("list")
def list_all(as_json: Json = False) -> None:
    """List all keys, without their secrets, which are stored only as hashes."""
    from stack.operate.keys import show as run

    raise typer.Exit(run(Home.current(), as_json=as_json))


@keys.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `list` shows.")]) -> None:
    """Revoke a key. Running services obey within a second.

    Revoking the last key shuts out everybody but the stack itself, also after a restart. To do without keys, use
    `keys open`.
    """
    from stack.operate.keys import revoke as run

    raise typer.Exit(run(Home.current(), key_id))


@keys.command("open")
def open_door() -> None:
    """Remove all keys. From the next `up` on, everybody who reaches this machine's loopback address is let in.

    Works only while nothing runs. Nothing else opens the APIs: a stack that had keys does not start without its file.
    """
    from stack.operate.keys import open_door as run

    raise typer.Exit(run(Home.current()))


@keys.command("rotate-ids")
def rotate_ids(
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Forget the old keys. Only a day or more after the rotation.")
    ] = False,
) -> None:
    """Replace ORDER_ID_KEY, which signs order ids. Retries still find their orders. Takes effect at the next `up`.

    The new key signs new ids. The old keys still verify their ids and find the orders of retries, until --drop-old.
    """
    from stack.home.credentials import rotate_order_ids
    from stack.terminal import say

    count = rotate_order_ids(Home.current().credentials, drop_old=drop_old)
    say(f"keys in ORDER_ID_KEY: {count}; they take effect after ./headrace down and ./headrace up")
    if count > 1:
        say("a day after that: ./headrace keys rotate-ids --drop-old")
