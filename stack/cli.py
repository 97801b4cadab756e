"""The command line. Each command is a module in stack.commands and a line here. It imports its work when it runs."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from pipeline.process.version import NAME, project_version
from stack.commands import bench, dead, demo, docs, doctor, down, hooks, keys, logs, servers, status, test, up, verify
from stack.errors import HeadraceError, disk_full
from stack.home.directory import Home
from stack.process.logfile import open_log

app = typer.Typer(
    help="Headrace: write-behind order ingestion. `up` runs everything on this machine, `test` checks it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    up.up,
    down.down,
    status.status,
    logs.logs,
    doctor.doctor,
    demo.demo,
    verify.verify,
    bench.bench,
    docs.docs,
):
    app.command()(command)
app.command("test", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(test.run_tests)
app.command(hidden=True)(servers.servers)
app.add_typer(keys.keys, name="keys")
app.add_typer(dead.dead, name="dead")
app.add_typer(hooks.hooks, name="hooks")


def main() -> None:
    """Run the command line. Prints every failure as a HeadraceError, and writes tracebacks to the log `cli`."""
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
    from stack.terminal import print_error

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
        return HeadraceError(
            f"{type(error).__name__}: {error}", "a bug in Headrace", "HEADRACE_DEBUG=1 shows the traceback"
        )
    return HeadraceError(
        f"{type(error).__name__}: {error}", "a bug in Headrace, or a machine that it was never tried on", "", str(log)
    )


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{NAME} {project_version()}")
        raise typer.Exit


@app.callback()
def every_command(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from stack.containers import containers

    if Home.current().path.is_file():
        Home.current().check_ours()
    asks_for_help = any(it in ("-h", "--help") for it in sys.argv)
    is_inside = containers.is_inside(str(context.invoked_subcommand), sys.argv[1:], os.environ)
    if is_inside and containers.is_used(Home.current()) and not asks_for_help:
        raise typer.Exit(containers.run_inside(sys.argv[1:]))
