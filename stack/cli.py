"""The commands: what each takes and returns. Their work is in modules of their own, imported when they run."""

from __future__ import annotations

import os
import sys
import tomllib
import traceback
from typing import Annotated

import typer

from stack.dead_cli import dead
from stack.errors import HeadraceError, disk_full
from stack.home import ROOT, Home
from stack.logfile import open_log
from stack.suites import available_suites, by_default

app = typer.Typer(
    help="Headrace: write-behind order ingestion. `up` runs everything on this machine, `test` checks it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys = typer.Typer(help="API keys: who may use the two APIs.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(dead, name="dead")
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def main() -> None:
    """Run the command line; every failure leaves in one shape (see errors), tracebacks go to a log."""
    try:
        app(prog_name="headrace")
    except HeadraceError as error:
        _fail(error)
    except BrokenPipeError:  # `./headrace logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        _fail(_unexpected(error))


def _fail(error: HeadraceError) -> None:
    from stack.console import print_error

    print_error(error)
    sys.exit(1)


def _unexpected(error: Exception) -> HeadraceError:
    if full := disk_full(error, Home.current().path):
        return full
    log = Home.current().log("cli")
    try:
        Home.current().create()
        with open_log(log) as file:
            file.write(traceback.format_exc().encode())
    except (OSError, HeadraceError):
        return HeadraceError(f"{type(error).__name__}: {error}", "a bug", "HEADRACE_DEBUG=1 shows the traceback")
    return HeadraceError(
        f"{type(error).__name__}: {error}", "a bug, or a machine that we did not think of", "", str(log)
    )


def _print_version(asked: bool) -> None:
    if asked:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        typer.echo(f"{project['name']} {project['version']}")
        raise typer.Exit


@app.callback()
def every_command(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from stack import containers

    if Home.current().path.is_file():
        Home.current().check_ours()
    asks_for_help = any(it in ("-h", "--help") for it in sys.argv)
    is_inside = containers.is_inside(str(context.invoked_subcommand), sys.argv[1:], os.environ)
    if is_inside and containers.is_used(Home.current()) and not asks_for_help:
        raise typer.Exit(containers.run_inside(sys.argv[1:]))


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once all is ready; it runs on.")] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="With RabbitMQ's management UI (starts 3 s, stops 5 s slower).")
    ] = False,
    docker: Annotated[bool, typer.Option("--docker", help="In containers, as docker-compose.yml says.")] = False,
) -> None:
    """Start PostgreSQL, RabbitMQ, Redis and the four services; install what is missing."""
    from stack import containers
    from stack.up import up as run

    if docker and ui:
        cause = "the containers publish the two APIs and nothing else"
        raise HeadraceError("--ui is not for --docker", cause, "./headrace up --docker, or ./headrace up --ui")
    if docker:
        raise typer.Exit(containers.up(Home.current(), detach=detach))
    if containers.is_used(Home.current()):
        raise HeadraceError("headrace is running already, in containers", mend="./headrace down, then again")
    if ui:
        from stack.rabbitmq import UI_VARIABLE

        os.environ[UI_VARIABLE] = "1"

    raise typer.Exit(run(Home.current(), detach=detach))


@app.command()
def down(
    purge: Annotated[bool, typer.Option("--purge", help="Also remove data, credentials, API keys and logs.")] = False,
) -> None:
    """Stop everything that `up` started."""
    from stack import containers
    from stack.down import down as run

    home = Home.current()
    if containers.is_used(home):
        raise typer.Exit(containers.down(home, purge=purge))
    if not (purge and containers.has_data(home)):
        raise typer.Exit(run(home, purge=purge))
    if home.is_held():
        code = run(home, purge=True, but=(containers.DATA_MARK,))
        containers.tell_data_kept()
        raise typer.Exit(code)
    containers.down(home, purge=True)
    if home.path.exists():
        run(home, purge=True)


@app.command()
def status(as_json: Json = False) -> None:
    """What runs, and where. Exit code 0: all ready; 1: something is not; 3: not running."""
    from stack import containers
    from stack.status import status as run

    if containers.is_used(Home.current()):
        raise typer.Exit(containers.status(as_json=as_json))
    raise typer.Exit(run(Home.current(), as_json=as_json))


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="One service or server; all of them by default.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
) -> None:
    """Show the logs."""
    from stack import containers
    from stack.logs import logs as run

    if containers.is_used(Home.current()):
        raise typer.Exit(containers.logs(service, follow=follow))
    raise typer.Exit(run(Home.current(), service, follow=follow))


@app.command()
def doctor() -> None:
    """What is installed, which ports, and what `up` would do. Exit code 0: `up` would work."""
    from stack.doctor import doctor as run

    raise typer.Exit(run(Home.current()))


@app.command()
def demo(
    orders: Annotated[int, typer.Option(min=1, help="How many orders to send.")] = 20_000,
    clients: Annotated[int, typer.Option(min=1, max=10_000, help="How many connections send them.")] = 64,
    products: Annotated[int, typer.Option(min=1, help="Over how many products.")] = 100,
    as_json: Json = False,
) -> None:
    """Drive real orders through the running stack and account for every one. Exit code 1: lost, twice or oversold."""
    from stack.demo import demo as run
    from stack.key_file import own_token
    from stack.status import running_urls

    home = Home.current()
    urls = running_urls(home)
    token = own_token(home)
    raise typer.Exit(run(urls, orders=orders, clients=clients, products=products, token=token, as_json=as_json))


@app.command()
def verify(
    lag: Annotated[
        float, typer.Option(min=0, max=1e9, help="How many seconds an order may be without a verdict.")
    ] = 60,
    repair: Annotated[
        bool, typer.Option("--repair", help="First send once more what has no verdict, and wait for the verdicts.")
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(help="Another database than the running stack's, without a password: else DATABASE_URL."),
    ] = None,
    amqp_url: Annotated[
        str | None, typer.Option(help="The broker of that database, for --repair. As above: else AMQP_URL.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Audit the database of a running system: each order, verdict and product. Exit code 1: something is wrong."""
    from stack.verify import verify as run

    servers = {"database_url": database_url, "amqp_url": amqp_url}
    raise typer.Exit(run(Home.current(), lag_s=lag, repair=repair, as_json=as_json, **servers))


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="6 minutes instead of 45: fewer and shorter runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The verdict as JSON on standard output.")] = False,
    only: Annotated[
        str | None, typer.Option(metavar="NAME", help="One experiment or contender; a wrong name lists them.")
    ] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Quote the result in README.md and docs/, and draw the plots anew.")
    ] = False,
) -> None:
    """Measure how fast it is, beside what, at what price, on servers of its own. Exit code 1: a run was void."""
    from stack.bench import bench as run

    raise typer.Exit(run(Home.current(), quick=quick, as_json=as_json, only=only, document=document))


@keys.command("add")
def keys_add(
    client: Annotated[str, typer.Argument(help="Whose key it is. A client may have several.")],
    scope: Annotated[
        list[str], typer.Option(help="orders:write, orders:read, products:write or ops; may be given again.")
    ] = [],  # noqa: B006 - typer copies it
    limit: Annotated[int | None, typer.Option(help="At most so many orders/s, to each ingest_api.")] = None,
) -> None:
    """Make a key and print it, once: KEY=$(./headrace keys add shop --scope orders:write). The first closes the door.

    Products can be read with any key. `ops` is for /metrics and /health; with orders:read, it reads the orders of all.

    A client's name is its identity for ever: whoever gets a key of that name has its orders and its Idempotency-Keys,
    however long ago the last key was revoked. Never give a name to somebody else.
    """
    from stack.keys import add as run

    raise typer.Exit(run(Home.current(), client, scope, limit))


@keys.command("list")
def keys_list(as_json: Json = False) -> None:
    """Show all keys, but for their secrets, which nobody has."""
    from stack.keys import show as run

    raise typer.Exit(run(Home.current(), as_json=as_json))


@keys.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")]) -> None:
    """Remove a key, within a second also from services that run.

    The last one closes the door to all but the stack itself, also after a restart: to do without keys, say `keys open`.
    """
    from stack.keys import revoke as run

    raise typer.Exit(run(Home.current(), key_id))


@keys.command("open")
def keys_open() -> None:
    """Do without keys: remove all of them. From the next `up` on, who can reach this machine's loopback is let in.

    Only while nothing runs. Nothing else opens the door: without its key file, a stack that had keys does not start.
    """
    from stack.keys import open_door as run

    raise typer.Exit(run(Home.current()))


@keys.command("rotate-ids")
def keys_rotate_ids(
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Forget the old keys. Not before a day has passed since the rotation.")
    ] = False,
) -> None:
    """Replace ORDER_ID_KEY, which signs order ids, without a second order for any retry. Takes effect at the next `up`.

    The new key mints; the old ones go on recognising their ids and finding the orders of retries, until --drop-old.
    """
    from stack.console import say
    from stack.credentials import rotate_order_ids

    count = rotate_order_ids(Home.current().credentials, drop_old=drop_old)
    say(f"keys in ORDER_ID_KEY: {count}; in use after ./headrace down and ./headrace up")
    if count > 1:
        say("a day from then on: ./headrace keys rotate-ids --drop-old")


@app.command("test", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run_tests(
    arguments: Annotated[  # noqa: ARG001 - the parser drops the `--` that tells suites from pytest's arguments
        list[str] | None,
        typer.Argument(
            metavar="SUITE",
            help=f"Default: all of {', '.join(by_default(available_suites()))}. After --: pytest's own arguments.",
        ),
    ] = None,
) -> None:
    """Format, lint, types, layers, then the tests, on servers of their own."""
    from stack.checks import run_suites

    raise typer.Exit(run_suites(Home.current(), sys.argv[2:]))


@app.command(hidden=True)
def servers() -> None:
    """Run the three servers alone, as tests use them, until Ctrl-C; print the variables that tests read."""
    from stack.checks import hold_servers

    raise typer.Exit(hold_servers(Home.current()))
