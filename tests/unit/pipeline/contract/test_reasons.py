"""Every reason that an order can be FAILED for is in one table, and in the documents."""

from pathlib import Path

from ingest_api.documents.documents import openapi
from persist_worker.dead_letter_consumer import XDeath
from pipeline.contract.reasons import BROKER_REASONS, DEAD_LETTERED, REASONS, table_rows

ROOT = Path(__file__).parents[4]


def test_the_documents_list_every_reason() -> None:
    page = (ROOT / "docs/operate/dead-letters.md").read_text()
    assert "| reason | what it was |\n|---|---|\n" + "\n".join(table_rows(verdicts=False)) + "\n\n" in page
    document = str(openapi())
    assert [it.name for it in REASONS if f"`{it.name}`" not in document] == []


def test_what_the_broker_gives_up_on_has_a_reason_of_the_table() -> None:
    names = {it.name for it in REASONS if not it.is_verdict}
    for word in [*BROKER_REASONS, "something new"]:
        assert XDeath.of([{"reason": word, "queue": "orders.accepted"}]).reason in names
    assert XDeath.of([{"reason": "something new"}]).reason == DEAD_LETTERED
