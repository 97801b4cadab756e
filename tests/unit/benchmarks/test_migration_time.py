"""docs/operate/upgrade.md says what the revisions were measured to cost."""

import json
import re
from itertools import pairwise

from benchmarks.experiments.migration_time import RESULT
from stack.home.directory import ROOT

FOUND = json.loads(RESULT.read_text())


def test_the_table_of_revisions_is_that_of_the_result_file() -> None:
    said = (ROOT / "docs/operate/upgrade.md").read_text()
    rows = re.findall(r"^\| (\d{4}) \|" + r" ([0-9.]+) s \|" * 4 + r" ([+−][\d,]+) MB \|$", said, re.MULTILINE)
    sizes = pairwise([FOUND["database_mb"], *(it["database_mb"] for it in FOUND["revisions"])])
    assert rows == [
        (
            it["revision"][:4],
            f"{it['seconds']:.1f}",
            f"{it['waits']['copy_s']:.1f}",
            f"{it['waits']['verdict_s']:.1f}",
            f"{it['waits']['read_s']:.2f}",
            f"{after - before:+,}".replace("-", "−"),
        )
        for it, (before, after) in zip(FOUND["revisions"], sizes, strict=True)
    ]
    assert FOUND["orders"] == 10_000_000
