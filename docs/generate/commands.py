"""The reference of `./headrace`: each command with its arguments and options, as `--help` has them."""

from typing import Any

import typer

from docs.generate.table import table
from stack.cli import app

_HEAD = """\
# Commands

`./headrace COMMAND --help` shows the same. Every command exits 0 when it worked. A failure is one `error:`
on standard error, with its cause, what to do, and the path of the log.
"""


def page() -> str:
    return "\n".join([_HEAD, *(_section(name, it) for name, it in sorted(commands().items()))])


def commands() -> dict[str, Any]:
    """`dead replay` → the command, of every command that `--help` lists."""
    found: dict[str, Any] = {}
    for name, it in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(it, "commands"):
            found |= {f"{name} {inner}": command for inner, command in it.commands.items()}
        elif not it.hidden:
            found[name] = it
    return found


def _section(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=f"./headrace {name}")
    rows = [_row(it, context) for it in command.params if not it.hidden]
    parts = [f"## {name}\n", f"{command.help}\n"]
    return "\n".join(
        [*parts, table(("option or argument", "type", "default", "what it does"), rows)] if rows else parts
    )


def _row(parameter: Any, context: typer.Context) -> tuple[str, ...]:
    is_argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if is_argument else parameter.opts
    return ", ".join(f"`{it}`" for it in names), _type_of(parameter, context), _default(parameter), parameter.help or ""


def _type_of(parameter: Any, context: typer.Context) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    words = {"str": "text", "int range": "number", "float range": "number", "int": "number", "UUID": "id"}
    shown = str(parameter.display_type(context)).strip("<>")
    inner = shown.removeprefix("list[").removesuffix("]")
    several = ", several times" if inner != shown else ""
    return words.get(inner, inner) + several


def _default(parameter: Any) -> str:
    is_told = isinstance(parameter.default, (int, float, str)) and not isinstance(parameter.default, bool)
    return f"{parameter.default}" if is_told else ""
