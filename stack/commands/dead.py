"""The commands of `dead`: what each takes. Their work is in stack.operate.dead, imported when they run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from stack.commands.options import Json
from stack.home.directory import Home

dead = typer.Typer(help="Dead letters: orders that could not be stored or decided.", no_args_is_help=True)


class Stage(StrEnum):
    PERSIST = "persist"
    STOCK = "stock"


OfStage = Annotated[Stage | None, typer.Option("--stage", help="Parked by persist_worker, or by product_consumer.")]
OfReason = Annotated[str | None, typer.Option("--reason", help="As the list shows it: invalid_data and so on.")]
OfOrder = Annotated[UUID | None, typer.Option("--order", help="Of this order.")]
OfProduct = Annotated[UUID | None, typer.Option("--product", help="With this product in the body.")]
Since = Annotated[
    str | None, typer.Option("--since", help="Parked then or later: 2026-01-31T09:00, or 2h for 2 h ago.")
]
Until = Annotated[str | None, typer.Option("--until", help="Parked before then.")]
Ids = Annotated[list[int], typer.Option("--id", help="This letter; may be given again.")]


@dead.command("list")
def dead_list(
    stage: OfStage = None,
    reason: OfReason = None,
    order: OfOrder = None,
    product: OfProduct = None,
    since: Since = None,
    until: Until = None,
    ids: Ids = [],  # noqa: B006 - typer copies it
    replayed: Annotated[bool, typer.Option("--replayed", help="Also those that were replayed.")] = False,
    discarded: Annotated[bool, typer.Option("--discarded", help="Also those that were discarded.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, the latest. Default: 50; all with --json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what waits for its replay, and why it was parked."""
    from stack.operate.dead import filters_of
    from stack.operate.dead import show_list as run
    from stack.operate.dead_sql import Also

    filters = filters_of(ids, stage, reason, order, product, since, until)
    also = Also(replayed=replayed, discarded=discarded)
    raise typer.Exit(run(Home.current(), filters, also, limit=limit, as_json=as_json))


@dead.command("show")
def dead_show(letter_id: Annotated[int, typer.Argument(metavar="ID", help="As the list shows it.")]) -> None:
    """Show one dead letter wholly: why it was parked, and its body, with what a terminal must not see escaped."""
    from stack.operate.dead import show_one as run

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
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the oldest first.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, max=1e6, help="At most so many a second.")] = 100.0,
    as_json: Json = False,
) -> None:
    """Send what waits once more, to the queue that it came from. Exit code 1: the broker did not confirm all of it.

    All that waits, if no filter says otherwise. Fix the cause first: what fails again is parked again, with a new id.
    It may be done twice, and at once: what is sent twice is one order.
    """
    from stack.operate.dead import filters_of
    from stack.operate.dead import replay_letters as run

    filters = filters_of(ids, stage, reason, order, product, since, until)
    raise typer.Exit(run(Home.current(), filters, dry_run=dry_run, limit=limit, rate=rate, as_json=as_json))


@dead.command("discard")
def dead_discard(
    letters: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="As the list shows them.")] = None,
    why: Annotated[str, typer.Option("--reason", help="Why it is given up; kept with the letter, and the time.")] = "",
    stage: OfStage = None,
    parked_for: Annotated[
        str | None, typer.Option("--parked-for", help="Parked for this reason: invalid_data and so on.")
    ] = None,
    order: OfOrder = None,
    product: OfProduct = None,
    since: Since = None,
    until: Until = None,
    ids: Ids = [],  # noqa: B006 - typer copies it
    everything: Annotated[bool, typer.Option("--all", help="All that waits.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
    as_json: Json = False,
) -> None:
    """Give up what waits: its orders are FAILED for ever, whatever of them still comes. There is no way back.

    By id, or by filters that all hold; all that waits must be asked for with --all.
    """
    from stack.errors import HeadraceError
    from stack.operate.dead import discard_letters as run
    from stack.operate.dead import filters_of
    from stack.operate.dead_sql import Filters

    filters = filters_of([*(letters or []), *ids], stage, parked_for, order, product, since, until)
    if filters == Filters() and not everything:
        cause = "there is no way back from it"
        raise HeadraceError("it is not said what to discard", cause, "name ids or filters, or say --all")
    raise typer.Exit(run(Home.current(), filters, why, dry_run=dry_run, as_json=as_json))
