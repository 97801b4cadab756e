"""docs/delivery.md claims nothing that no test shows, and leaves out no arrow and no failpoint."""

import re
from pathlib import Path

from tests.chaos.faults.failpoints import FAILPOINTS
from tests.support.data.documents import assert_they_are_there

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs/delivery.md"
TEXT = DOCUMENT.read_text()
HEAD = "| failure | what happens | shown by |\n|---|---|---|\n"


def rows() -> list[str]:
    return [row for table in TEXT.split(HEAD)[1:] for row in table.partition("\n\n")[0].splitlines()]


def test_every_row_names_tests_that_are_there() -> None:
    assert len(rows()) > 30
    for row in rows():
        assert_they_are_there(row, DOCUMENT)


def test_every_arrow_of_the_way_has_its_table() -> None:
    titles = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    assert TEXT.count(HEAD) == len(titles)
    steps = ("orders.accepted", "persist_worker", "orders.created", "product_consumer", "stock_ledger", "Redis")
    for step in (
        *steps,
        "orders.dead",
        "dead_letters",
        "dead replay",
        "event log",
        "webhooks",
        "order_events",
        "pull and stream",
    ):
        assert any(step in title for title in titles), step


def test_every_failpoint_is_hit_on_real_servers() -> None:
    """By name: what the document says of exact moments is shown there."""
    rooms = ("workers/test_failpoints.py", "event_relay/test_relays.py", "event_relay/test_exchange.py")
    shown = "".join((ROOT / "tests/integration" / it).read_text() for it in rooms)
    assert [it.name for it in FAILPOINTS if f'"{it.name}' not in shown] == []


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", TEXT)
    assert [target for target in targets if not (DOCUMENT.parent / target).exists()] == []
