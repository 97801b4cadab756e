"""What an audit prints: each offender as it is found, however many there are, and the counts at the end.

As JSON it is one object, written as it grows; whoever finds it without its end has the output of an audit that failed:

    {"offenders": [{"check": "no_verdict", "id": "…", "expected": "…", "found": "…"}, …],
     "checks": {"no_verdict": 1, "two_verdicts": 0, …},
     "counts": {"orders": 3, "processed": 1, "failed": 1, "dead_letters": 0, "products": 2, "pending": 1},
     "lag_s": 60.0, "resent": null, "seconds": 0.02, "clean": false}

`counts.pending` are the orders without a verdict, the late ones included; `resent` is null without --repair.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from stack.offenders import CHECKS, NO_VERDICT, Offender
from stack.verify_sql import Counts


class Report:
    def __init__(self, lag_s: float, *, as_json: bool) -> None:
        self.lag_s = lag_s
        self.resent: int | None = None
        self._as_json = as_json
        self._found: Counter[str] = Counter()

    @property
    def is_clean(self) -> bool:
        return not self._found

    def add(self, offender: Offender) -> None:
        """Print it."""
        if self._as_json:
            print(f"{',' if self._found else _JSON_BEGIN}\n  {json.dumps(offender._asdict())}", end="")
        else:
            print(f"{offender.check}  {offender.id}  expected {offender.expected}; found {offender.found}")
        self._found[offender.check] += 1

    def end(self, counts: Counts, seconds: float) -> None:
        """Print the counts. Not called for an audit that failed."""
        if self._as_json:
            self._end_json(counts, seconds)
        else:
            print("\n".join(self._summary(counts, seconds)))

    def _end_json(self, counts: Counts, seconds: float) -> None:
        rest = {
            "checks": {check: self._found[check] for check in CHECKS},
            "counts": asdict(counts),
            "lag_s": self.lag_s,
            "resent": self.resent,
            "seconds": round(seconds, 3),
            "clean": self.is_clean,
        }
        begun = "\n" if self._found else _JSON_BEGIN
        print(f"{begun}], {json.dumps(rest)[1:]}")

    def _summary(self, counts: Counts, seconds: float) -> list[str]:
        verdicts = f"{counts.processed:,} PROCESSED, {counts.failed:,} FAILED"
        pending = (
            f"{counts.pending:,} without a verdict, of which {self._found[NO_VERDICT]:,} for more than {self.lag_s:g} s"
        )
        lines = [
            f"{_many(counts.orders, 'order')}: {verdicts}, {pending}",
            f"{_many(counts.dead_letters, 'dead letter')} to replay, {_many(counts.products, 'product')}",
            f"one snapshot, {seconds:.1f} s",
        ]
        if self.resent is not None:
            lines.insert(0, f"{_many(self.resent, 'order')} sent again")
        return [*lines, self._verdict()]

    def _verdict(self) -> str:
        if self.is_clean:
            return "nothing lost, nothing twice, nothing oversold"
        found = ", ".join(f"{count:,} {check}" for check, count in self._found.items())
        return f"{_many(self._found.total(), 'offender')}: {found}"


_JSON_BEGIN = '{"offenders": ['


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
