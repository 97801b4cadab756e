"""The commands of `dead`: what each takes. Their work is in stack.dead, imported when they run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from stack.home import Home

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
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


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
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what waits for its replay, and why it was parked."""
    from stack.dead import filters_of
    from stack.dead import show_list as run

    filters = filters_of(ids, stage, reason, order, product, since, until)
    raise typer.Exit(run(Home.current(), filters, replayed=replayed, limit=limit, as_json=as_json))


@dead.command("show")
def dead_show(letter_id: Annotated[int, typer.Argument(metavar="ID", help="As the list shows it.")]) -> None:
    """Show one dead letter wholly: why it was parked, and its body, with what a terminal must not see escaped."""
    from stack.dead import show_one as run

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

    All that waits, if no filter says otherwise. Mend the cause first: what fails again is parked again, with a new id.
    It may be done twice, and at once: what is sent twice is one order.
    """
    from stack.dead import filters_of
    from stack.dead import replay_letters as run

    filters = filters_of(ids, stage, reason, order, product, since, until)
    raise typer.Exit(run(Home.current(), filters, dry_run=dry_run, limit=limit, rate=rate, as_json=as_json))
