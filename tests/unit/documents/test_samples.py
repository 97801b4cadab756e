"""Every sample of the documents is run or checked, or its reason not to be is listed here."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from stack.cli import app
from stack.home.directory import ROOT
from tests.support.data.samples import Sample, documents, indented, samples

CHECKED = {
    "json": "parsed here",
    "python": "the client by test_api_page and tests/system/command/test_documented_samples.py; what follows events by"
    " test_documented_readers.py and test_documented_receivers.py",
    "sh": "command by command, see below",
    "bash": "each as one script, by tests/system/command/test_documented_samples.py",
    "text": "output or a drawing, nothing to run",
    "diff": "applied to a copy of the repository by tests/integration/orders/test_adding_a_field.py",
}
"""How the samples of each language are held to the code. Another language needs a way here first."""

RUN_ELSEWHERE = {
    "DATABASE_URL=postgresql://ADMIN:PASSWORD@HOST/headrace .venv/bin/python -m migrations.privileges DIRECTORY": (
        "tests/integration/database/test_privileges.py"
    ),
    ".venv/bin/python -m stack.servers.redis_users shop DIRECTORY": "tests/integration/cache/test_redis_users.py",
    "pg_receivewal -d URL --slot backup --create-slot --if-not-exists": "it was rehearsed by hand",
    "pg_receivewal -d URL --slot backup -D ARCHIVE --synchronous": "it was rehearsed by hand",
    "pg_basebackup -d URL -D BASE -c fast -X stream": "it was rehearsed by hand",
    "useradd --system --no-create-home --shell /usr/sbin/nologin headrace": "it changes the machine",
    ".venv-bench/bin/python -m benchmarks.report benchmarks/results/FILE.json": "tests/unit/benchmarks",
    "uv pip compile --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml"
    " -o requirements.lock": "it asks the package index",
    "uv pip compile --universal --generate-hashes --no-header --python-version 3.11 --extra dev -c requirements.lock"
    " pyproject.toml -o requirements-dev.lock": "it asks the package index",
}
"""Commands that no test of this file runs: who does, or why nobody."""


HELD = {
    "./headrace": "parsed here",
    "curl": "tests/system/command/test_documented_samples.py",
    "docker": "tests/compose and tests/cluster, which need an engine",
}
"""Programs whose every command is held to the code by somebody."""


def commands() -> list[tuple[str, str]]:
    return [(it.document, command) for it in samples("sh") for command in it.commands()]


def words_of(command: str) -> list[str]:
    """The words, without the variables that are set in front of a command."""
    words = shlex.split(command)
    while "=" in words[0]:
        words = words[1:]
    return words


@pytest.mark.parametrize("document", documents(), ids=lambda it: it.relative_to(ROOT).as_posix())
def test_every_sample_is_fenced_and_says_its_language(document: Path) -> None:
    assert indented(document) == []
    name = document.relative_to(ROOT).as_posix()
    assert [it.text for it in samples() if it.document == name and it.language not in CHECKED] == []


@pytest.mark.parametrize("sample", samples("json"), ids=lambda it: it.document)
def test_json_is_json(sample: Sample) -> None:
    json.loads(sample.text)


def test_every_command_is_ours_or_a_request_or_has_its_reason() -> None:
    assert len(commands()) > 40
    unheld = [
        (document, command)
        for document, command in commands()
        if words_of(command)[0] not in HELD and command.replace("'", "") not in RUN_ELSEWHERE
    ]
    assert unheld == []


def test_nothing_is_listed_that_no_document_has() -> None:
    said = {command.replace("'", "") for _, command in commands()}
    assert [it for it in RUN_ELSEWHERE if it not in said] == []


@pytest.mark.parametrize(
    "command", sorted({it for _, it in commands() if words_of(it)[0] == "./headrace"}), ids=lambda it: it[:60]
)
def test_the_command_line_understands_every_command_of_ours(command: str) -> None:
    """By its own parser, which runs nothing. What the commands do, tests/system and tests/integration run."""
    words = words_of(command)[1:]
    found: Any = typer.main.get_command(app)
    name = ""
    while hasattr(found, "commands"):
        name, *words = words
        found = found.commands[name]
    placeholders = {"ID": "17", "FILE": "file"}
    found.make_context(name, [placeholders.get(it, it) for it in words])
