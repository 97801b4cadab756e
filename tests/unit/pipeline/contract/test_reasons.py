"""Every reason that an order can be FAILED for is in one table, and in the documents."""

import re
from pathlib import Path

from ingest_api.documents.documents import openapi
from persist_worker.dead_letter_consumer import XDeath
from pipeline.contract import topology
from pipeline.contract.reasons import BROKER_REASONS, Reason, table_rows
from pipeline.contract.stages import Stage

ROOT = Path(__file__).parents[4]


def test_the_documents_list_every_reason() -> None:
    page = (ROOT / "docs/operate/dead-letters.md").read_text()
    assert "| reason | what it was |\n|---|---|\n" + "\n".join(table_rows(verdicts=False)) + "\n\n" in page
    document = str(openapi())
    assert [it for it in Reason if f"`{it}`" not in document] == []


def test_what_the_broker_gives_up_on_has_a_reason_of_the_table() -> None:
    for word in BROKER_REASONS:
        assert XDeath.of([{"reason": word, "queue": "orders.accepted"}]).reason == Reason[word.upper()]
    assert XDeath.of([{"reason": "something new"}]).reason is Reason.DEAD_LETTERED


def test_a_reason_is_its_text_wherever_it_is_written() -> None:
    """In SQL, in COPY's text, in a metric's label, in JSON."""
    for it in Reason:
        assert f"{it}" == str(it) == it.value == it.name.lower()
        assert re.fullmatch(r"[A-Z].*\.", it.meaning)


def test_every_stage_has_a_queue_and_a_key() -> None:
    assert list(topology.QUEUES) == list(topology.KEYS) == list(Stage)
