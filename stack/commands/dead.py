"""`./headrace dead`: list, show, replay and discard dead letters. The work is in stack.operate.dead.dead."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from pipeline.contract.stages import Stage
from stack.commands.options import Json
from stack.home.directory import Home

dead = typer.Typer(
    help="List, replay or discard dead letters: orders that could not be stored or decided.", no_args_is_help=True
)


OfStage = Annotated[
    Stage | None,
    typer.Option("--stage", help="The stage that failed: persist (persist_worker) or stock (product_consumer)."),
]
OfReason = Annotated[str | None, typer.Option("--reason", help="The reason that `list` shows, such as invalid_data.")]
OfOrder = Annotated[UUID | None, typer.Option("--order", help="Letters of this order.")]
OfProduct = Annotated[UUID | None, typer.Option("--product", help="Letters with this product in the body.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Parked at this time or later: 2026-01-31T09:00, or 2h for 2 hours ago.")
]
Until = Annotated[str | None, typer.Option("--until", help="Parked before this time.")]
Ids = Annotated[list[int], typer.Option("--id", help="This letter. May be repeated.")]


@dead.command("list")
def dead_list(
    stage: OfStage = None,
    reason: OfReason = None,
    order: OfOrder = None,
    product: OfProduct = None,
    since: Since = None,
    until: Until = None,
    ids: Ids = [],  # noqa: B006 - typer copies it
    replayed: Annotated[bool, typer.Option("--replayed", help="Include replayed letters.")] = False,
    discarded: Annotated[bool, typer.Option("--discarded", help="Include discarded letters.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show at most this many, newest first. Default: 50; with --json: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the dead letters that wait for an operator, and why each was parked."""
    from stack.operate.dead.dead import filters_of
    from stack.operate.dead.dead import show_list as run
    from stack.operate.dead.sql import AlsoShown

    filters = filters_of(ids, stage, reason, order, product, since, until)
    also = AlsoShown(replayed=replayed, discarded=discarded)
    raise typer.Exit(run(Home.current(), filters, also, limit=limit, as_json=as_json))


@dead.command("show")
def dead_show(letter_id: Annotated[int, typer.Argument(metavar="ID", help="The id that `list` shows.")]) -> None:
    """Show one dead letter: its reason and its body. Control characters are escaped."""
    from stack.operate.dead.dead import show_one as run

    raise typer.Exit(run(Home.current(), letter_id))


@dead.command("replay")
def dead_replay(
    stage: OfStage = None,
    reason: OfReason = None,
    order: OfOrder = None,
    product: OfProduct = None,
    since: Since = None,
    until: Until = None,
    ids: Ids = [],  # noqa: B006 - typer copies it
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Replay at most this many, oldest first.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1e6, help="Replay at most this many a second.")] = 100.0,
    as_json: Json = False,
) -> None:
    """Send dead letters back to the queue that they came from. Exits 1 if the broker did not confirm all of them.

    Without filters, all waiting letters. Fix the cause first: an order that fails again is parked again, with a new id.
    Replaying is idempotent: an order that is sent twice, even by two operators at once, is one order.
    """
    from stack.operate.dead.dead import filters_of
    from stack.operate.dead.dead import replay_letters as run

    filters = filters_of(ids, stage, reason, order, product, since, until)
    raise typer.Exit(run(Home.current(), filters, dry_run=dry_run, limit=limit, rate=rate, as_json=as_json))


@dead.command("discard")
def dead_discard(
    letters: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="The ids that `list` shows.")] = None,
    why: Annotated[str, typer.Option("--reason", help="Why; stored with the letter.")] = "",
    stage: OfStage = None,
    parked_for: Annotated[
        str | None, typer.Option("--parked-for", help="Parked for this reason, such as invalid_data.")
    ] = None,
    order: OfOrder = None,
    product: OfProduct = None,
    since: Since = None,
    until: Until = None,
    ids: Ids = [],  # noqa: B006 - typer copies it
    everything: Annotated[bool, typer.Option("--all", help="Discard all waiting letters.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
    as_json: Json = False,
) -> None:
    """Give dead letters up: their orders stay FAILED, even if they are delivered again. This cannot be undone.

    Name letters by id, or by filters that must all match. To discard all waiting letters, pass --all.
    """
    from stack.errors import HeadraceError
    from stack.operate.dead.dead import discard_letters as run
    from stack.operate.dead.dead import filters_of
    from stack.operate.dead.sql import Filters

    filters = filters_of([*(letters or []), *ids], stage, parked_for, order, product, since, until)
    if filters == Filters() and not everything:
        cause = "discarding cannot be undone"
        raise HeadraceError("nothing says which letters to discard", cause, "pass ids, filters or --all")
    raise typer.Exit(run(Home.current(), filters, why, dry_run=dry_run, as_json=as_json))
