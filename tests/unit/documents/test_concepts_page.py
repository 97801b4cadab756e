"""docs/concepts.md lists every reason of a verdict, as the table in the code has them."""

from pipeline.contract.reasons import table_rows
from stack.home.directory import ROOT


def test_every_reason_of_a_verdict_is_listed() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    assert "| reason | meaning |\n|---|---|\n" + "\n".join(table_rows(verdicts=True)) + "\n\n" in text
