"""`./headrace hooks`: webhooks, which event_relay sends events to. The work is in stack.operate.hooks."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from pipeline.contract.hooks import MAX_BATCH
from stack.commands.options import Json
from stack.home.directory import Home

hooks = typer.Typer(help="Manage webhooks: URLs that are told what happens to orders.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id that `list` shows, or its first 4 characters or more.")]
After = Annotated[
    str | None, typer.Option("--after", help="Go on after this cursor, which each event has; `now`: the end.")
]
Since = Annotated[
    str | None, typer.Option("--since", help="Go on at this time: 2026-01-31T09:00, or 2h for 2 hours ago.")
]


@hooks.command("add")
def add(
    url: Annotated[str, typer.Argument(help="The receiver, https:// or http://.")],
    types: Annotated[
        str | None,
        typer.Option(help="Only these types of events: order.processed, order.failed, order.parked; with commas."),
    ] = None,
    product: Annotated[UUID | None, typer.Option(help="Only events of orders of this product.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=MAX_BATCH, help="Send up to this many events in a request.")] = 1,
    after: After = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Add a hook, print its secret, once, and send a test event: SECRET=$(./headrace hooks add https://...).

    It begins at the end of the log, unless --after or --since says where. A request's body is one event; with --batch
    it is an array. Each is signed with the secret, as Standard Webhooks has it, so that the receiver knows the sender.
    """
    from stack.operate.hooks.adding import Wanted
    from stack.operate.hooks.adding import add as run

    wanted = Wanted(url, types, None if product is None else str(product), batch, after, since)
    raise typer.Exit(run(Home.current(), wanted, as_json=as_json))


@hooks.command("list")
def list_all(as_json: Json = False) -> None:
    """List all hooks: their state, how far they are behind, and what went wrong last."""
    from stack.operate.hooks.actions import show_list as run

    raise typer.Exit(run(Home.current(), as_json=as_json))


@hooks.command("show")
def show(
    hook_id: Id,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many attempts, the latest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show a hook and its last attempts: status, latency, and how the answer begins. Control characters are escaped."""
    from stack.operate.hooks.actions import show_one as run

    raise typer.Exit(run(Home.current(), hook_id, limit=limit, as_json=as_json))


@hooks.command("pause")
def pause(
    hook_id: Id,
    reason: Annotated[str | None, typer.Option(help="Why; `list` shows it.")] = None,
    as_json: Json = False,
) -> None:
    """Send nothing to a hook until it is resumed. Its events wait in the log."""
    from stack.operate.hooks.actions import pause as run

    raise typer.Exit(run(Home.current(), hook_id, reason, as_json=as_json))


@hooks.command("resume")
def resume(hook_id: Id, as_json: Json = False) -> None:
    """Send to a paused hook again, from where it stopped. A hook that waits for its next attempt is tried at once."""
    from stack.operate.hooks.actions import resume as run

    raise typer.Exit(run(Home.current(), hook_id, as_json=as_json))


@hooks.command("replay")
def replay(hook_id: Id, after: After = None, since: Since = None, as_json: Json = False) -> None:
    """Send a hook's events again, from a cursor or a time on. A later place skips what lies before it.

    A receiver that drops the events it has seen, by their ids, takes a replay without harm.
    """
    from stack.operate.hooks.actions import replay as run

    raise typer.Exit(run(Home.current(), hook_id, after, since, as_json=as_json))


@hooks.command("rotate")
def rotate(hook_id: Id, as_json: Json = False) -> None:
    """Make a new secret and print it, once. For 24 hours each request is signed with the old one, too."""
    from stack.operate.hooks.actions import rotate as run

    raise typer.Exit(run(Home.current(), hook_id, as_json=as_json))


@hooks.command("remove")
def remove(
    hook_id: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a hook, after a question. Nothing is sent to it any more. This cannot be undone."""
    from stack.operate.hooks.actions import remove as run

    raise typer.Exit(run(Home.current(), hook_id, is_sure=yes, as_json=as_json))


@hooks.command("test")
def send_test(hook_id: Id, as_json: Json = False) -> None:
    """Send a signed test event to a hook and print the answer. Exits 1 unless its status is 2xx."""
    from stack.operate.hooks.adding import send_test as run

    raise typer.Exit(run(Home.current(), hook_id, as_json=as_json))
