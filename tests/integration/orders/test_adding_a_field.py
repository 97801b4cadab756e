"""Follows CONTRIBUTING.md's recipe for a new field of an order, in a copy of the repository, and checks its result."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ingest_api.idempotency.records import fingerprint_of
from ingest_api.requests import OrderRequest
from stack.home.directory import ROOT
from tests.support.data.texts import TEXTS

RECIPE = (ROOT / "CONTRIBUTING.md").read_text().partition("## A field of an order")[2].partition("\n## ")[0]
PRODUCT_ID = "38031c8e-4a7c-4017-a3d4-133b1a5f86ad"
# The packages on the path of an order, and their imports.
PACKAGES = (
    "database",
    "ingest_api",
    "migrations",
    "persist_worker",
    "pipeline",
    "proof",
    "stack",
    "tests/support",
    "web",
)


def steps() -> dict[str, str]:
    """The recipe: file → what to change."""
    return dict(re.findall(r"```diff\n\+\+\+ (\S+)\n(.*?)```", RECIPE, re.DOTALL))


def follow(recipe: dict[str, str], root: Path) -> None:
    for name, changes in recipe.items():
        file = root / name.replace("NNNN", "9999")
        text = file.read_text() if file.exists() else ""
        for change in changes.split("@@\n"):
            lines = change.splitlines(keepends=True)
            before, after = ("".join(it[1:] for it in lines if it[0] in kept) for kept in (" -", " +"))
            assert text.count(before) == 1 or not text, f"{name} has not once:\n{before}"
            text = text.replace(before, after) if text else after
        file.write_text(text)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the recipe applied."""
    root = tmp_path_factory.mktemp("scratch")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "vendor"))
    shutil.copy(ROOT / "pyproject.toml", root)
    follow(steps(), root)
    return root


def python(scratch: Path, *arguments: str, input_: str, database_url: str = "") -> str:
    """Run Python in the copy. Returns its output; asserts that it succeeds."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=scratch,
        env={**os.environ, "PYTHONPATH": str(scratch), "DATABASE_URL": database_url},
        input=input_,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def body(note: str | None, *, of_lines: bool = False) -> str:
    goods = {"productId": PRODUCT_ID, "quantity": 1}
    return json.dumps({"lines": [goods], "note": note} if of_lines else {**goods, "note": note})


def test_the_recipe_names_four_files() -> None:
    assert len(steps()) == 4


def test_a_field_that_is_added_is_in_every_answer_and_message_with_any_text(scratch: Path, database_url: str) -> None:
    notes = [*TEXTS.values(), "x" * 200, None]
    bodies = json.dumps([body(note, of_lines=note is not None and at % 2 == 0) for at, note in enumerate(notes)])
    printed = python(scratch, "-m", "tests.support.services.order_path", input_=bodies, database_url=database_url)
    places = json.loads(printed)
    found = {place: [order.get("note") for order in orders] for place, orders in places.items()}
    assert found == dict.fromkeys(found, notes)
    assert len(found) == 7
    # With one Idempotency-Key, another note makes another order, and an order without a note is unchanged.
    hashes = [order["request_hash"] for order in places["message"]]
    assert len(set(hashes)) == len(notes)
    assert hashes[-1] == fingerprint_of(OrderRequest(PRODUCT_ID, 1)).hex()


REFUSE = """
import sys
from ingest_api.requests import decode_request
from web.problems.problems import Problem
try:
    decode_request(sys.stdin.buffer.read())
except Problem as problem:
    print(problem.status, problem.body().decode())
"""


def test_a_field_that_is_added_refuses_in_words_what_it_cannot_hold(scratch: Path) -> None:
    refused = python(scratch, "-c", REFUSE, input_=body("one\0two"))
    assert refused.startswith("422 ")
    assert "note must be a string of at most 200 characters, none of them NUL" in refused
