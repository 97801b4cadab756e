"""`./headrace demo`: sends real orders through the running stack, and accounts for every one of them.

The demo creates its own products, so every row about them belongs to this run. One product in ten has stock for only
nine tenths of its orders: overselling shows only where some orders must fail.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from proof.accounting import Account, Sent, sort_answers
from proof.accounting_sql import POLL_S, Connection, audit, clock_offset_s, drain
from proof.load import Unreachable, drive
from proof.load_result import LoadResult, Request
from proof.orders import Order
from proof.sessions import COMMAND_SETTINGS
from stack.errors import HeadraceError
from stack.operate.demo.events import DemoEvents
from stack.operate.demo.picture import picture
from stack.operate.demo.plan import Plan, is_scarce, make_plan, requests_of
from stack.operate.demo.report import Run, figures, print_report
from stack.terminal import err, out

CREATE_CLIENTS = 4
# For the first connection to each API. Longer than a killed service takes to come back.
CONNECT_PATIENCE_S = 10.0
# Seconds until the first acceptance, and between two. The first is ample for a stack that works. The second is longer
# than a killed broker takes to come back: a demo may be run to show just that.
ACCEPTANCE_S = (10.0, 60.0)
# Open files other than connections: the database, standard streams, the event loop, the interpreter's.
OTHER_FILES = 64
# After the sending. Longer than a killed server takes to come back.
DATABASE_PATIENCE_S = 60.0
_DATABASE_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT."""


def demo(
    urls: dict[str, str],
    *,
    orders: int,
    clients: int,
    products: int,
    token: str | None = None,
    as_json: bool = False,
    svg: Path | None = None,
    lines: int = 1,
    seed: int = 1,
) -> int:
    """Send `orders` orders of `lines` lines each for `products` new products over `clients` connections, wait for the
    verdicts, and report.

    `urls`: of `ingest_api`, `product_api` and `database`. `token`: of an API key, if keys are in use. Prints the
    report, or one JSON object; a terminal also shows progress. `svg`: also draw the report into this file. Ctrl-C stops
    the sending and still accounts for all sent orders. A second Ctrl-C stops at once.

    Returns 0; 1 if an order was lost, duplicated, oversold or stored in part, or the stack accepts nothing; 130 after
    Ctrl-C. Raises HeadraceError if an API or the database cannot be reached, product_api refuses the products, an order
    has more lines than there are products, or the system does not allow that many connections.
    """
    allow_open_files(clients)
    plan = make_plan(orders, products, seed, lines)
    try:
        run = uvloop.run(_run(urls, plan, clients, token, err if as_json else out))
    except KeyboardInterrupt:
        return INTERRUPTED
    if as_json:
        print(json.dumps(figures(run)))
    else:
        print_report(run, out)
    if svg:
        _write(svg, picture(run))
    if run.interrupted:
        return INTERRUPTED
    return 0 if run.is_good else 1


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise HeadraceError(f"cannot write {file}", str(error.strerror)) from error


def allow_open_files(clients: int) -> None:
    """Raise this process's limit of open files to the number of clients. Raises HeadraceError if it must not."""
    needed = clients + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            what = f"{clients:,} clients need {needed:,} open files, and the system allows {hard:,}"
            raise HeadraceError(what, fix=f"./headrace demo --clients {max(1, hard - OTHER_FILES)}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _run(urls: dict[str, str], plan: Plan, clients: int, token: str | None, console: Console) -> Run:
    await (await _connect(urls["database"])).close()  # fail now rather than after a million orders
    product_ids = await _create_products(urls["product_api"], plan, token)
    events = DemoEvents(urls["ingest_api"], token)
    with _progress(console) as progress, _until_interrupted() as interrupted:
        async with events.followed():
            requests = _until(interrupted, requests_of(urls["ingest_api"], plan, product_ids, token))
            load = await _send(urls["ingest_api"], requests, clients, _bar(progress, "sending", len(plan.picks)))
            sent = sort_answers(load)
            drained_s, offset_s, account = await _account(urls["database"], sent, product_ids, progress)
            decided = [order_id for order_id in sent.accepted if order_id not in account.lost]
            await events.until_read(decided)
        return Run(
            planned=len(plan.picks),
            lines=plan.lines,
            clients=clients,
            products=len(product_ids),
            scarce=sum(map(is_scarce, range(len(product_ids)))),
            seed=plan.seed,
            interrupted=interrupted.is_set(),
            load=load,
            sent=sent,
            account=account,
            events=events.book.account(decided, offset_s),
            drained_s=drained_s,
            clock_offset_s=offset_s,
        )


async def _send(
    ingest_api: str, requests: Iterator[Request[Order]], clients: int, told: Callable[[int], None]
) -> LoadResult[Order]:
    try:
        return await drive(
            ingest_api, requests, clients, told, patience_s=CONNECT_PATIENCE_S, acceptance_s=ACCEPTANCE_S
        )
    except Unreachable as error:
        raise _no_answer("ingest_api", ingest_api, str(error)) from error


async def _account_once(
    connection: Connection, sent: Sent, product_ids: Sequence[str], progress: Progress
) -> tuple[float, float, Account]:
    """The end of the drain (time.perf_counter), the offset to the database's clock, and the account."""
    ids = list(sent.accepted)
    await drain(connection, ids, _bar(progress, "deciding", len(ids)))
    drained_s = time.perf_counter()
    return drained_s, await clock_offset_s(connection), await audit(connection, sent, product_ids)


async def _account(
    database_url: str, sent: Sent, product_ids: Sequence[str], progress: Progress
) -> tuple[float, float, Account]:
    """As _account_once, retried while the database is away, as it may be in this demo. Raises HeadraceError."""
    given_up = time.monotonic() + DATABASE_PATIENCE_S
    while True:
        try:
            connection = await _connect(database_url)
            try:
                return await _account_once(connection, sent, product_ids, progress)
            finally:
                connection.terminate()
        except (HeadraceError, *_DATABASE_AWAY) as error:
            if time.monotonic() > given_up:
                raise _no_database(error) from error
        await asyncio.sleep(POLL_S)


async def _connect(database_url: str) -> Connection:
    try:
        return await asyncpg.connect(database_url, timeout=10, command_timeout=300, server_settings=COMMAND_SETTINGS)
    except _DATABASE_AWAY as error:
        raise _no_database(error) from error


def _no_database(error: Exception) -> HeadraceError:
    if isinstance(error, HeadraceError):
        return error
    return HeadraceError(f"the database does not answer: {error}", fix="find out why: ./headrace status")


async def _create_products(product_api: str, plan: Plan, token: str | None) -> list[str]:
    """Create the plan's products. Returns their ids, in the plan's order. Raises HeadraceError."""
    url = f"{product_api}/products"
    requests = [Request.post(url, _product(plan, number), number, token) for number in range(len(plan.stocks))]
    try:
        result = await drive(url, requests, CREATE_CLIENTS, patience_s=CONNECT_PATIENCE_S)
    except Unreachable as error:
        raise _no_answer("product_api", product_api, str(error)) from error
    ids = {
        request.about: kept.decode()
        for request, status, kept in zip(result.requests, result.statuses, result.kept, strict=True)
        if status == 201 and kept
    }
    if len(ids) < len(requests):
        raise _not_created(result, len(requests) - len(ids))
    return [ids[number] for number in range(len(requests))]


def _product(plan: Plan, number: int) -> bytes:
    name = f"Demo {number + 1} of {len(plan.stocks)}"
    return json.dumps({"name": name, "price": 9.95 + number, "qty": plan.stocks[number]}).encode()


def _not_created(result: LoadResult[int], failed: int) -> HeadraceError:
    statuses = ", ".join(f"{status}: {body.decode(errors='replace')}" for status, body in result.samples.items())
    what = f"product_api did not create {failed} of {len(result)} demo products"
    return HeadraceError(what, statuses or result.gave_up or "no answer", "./headrace logs product_api")


def _no_answer(service: str, url: str, reason: str) -> HeadraceError:
    return HeadraceError(f"{service} does not answer at {url}", reason, f"./headrace status; ./headrace logs {service}")


def _until(stop: asyncio.Event, requests: Iterator[Request[Order]]) -> Iterator[Request[Order]]:
    for request in requests:
        if stop.is_set():
            return
        yield request


@contextmanager
def _until_interrupted() -> Iterator[asyncio.Event]:
    """An event that the first Ctrl-C sets. The second one interrupts as usual."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()

    def interrupt() -> None:
        interrupted.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=5,  # it shares the cores with the stack
        disable=not console.is_terminal,
    )


def _bar(progress: Progress, name: str, total: int) -> Callable[[int], None]:
    """Add a progress bar. Returns the function that moves it."""
    task = progress.add_task(name, total=total)
    return lambda done: progress.update(task, completed=done)
