"""Prints an audit: each offender as it is found, and the counts at the end.

The JSON is one object, written as it grows. Without its end, it is the output of an audit that failed:

    {"offenders": [{"check": "no_verdict", "id": "…", "expected": "…", "found": "…"}, …],
     "checks": {"no_verdict": 1, "two_verdicts": 0, …},
     "counts": {"orders": 3, "processed": 1, "failed": 1, "cancelled": 0, "dead_letters": 0, "discarded": 0,
                "products": 2, "pending": 1},
     "lag_s": 60.0, "resent": null, "resent_cancellations": null,
     "waiting": {"orders.accepted": {"orders": 0, "messages": 0, "oldest_s": 0.0}, …}, "seconds": 0.02, "clean": false}

`counts.pending`: orders without a verdict, late ones included. `resent`: orders; null without --repair. `waiting`: the
backlog that ingest_api reports; null if no ingest_api is known.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from pipeline.contract.topology import ORDERS_ACCEPTED_QUEUE
from proof.audit_sql import Counts
from proof.offenders import CHECKS, NO_VERDICT, Offender, unstored
from stack.run.backlog import Waiting, as_json, many


class Report:
    def __init__(self, lag_s: float, *, as_json: bool) -> None:
        self.lag_s = lag_s
        self.resent: int | None = None
        self.resent_cancellations: int | None = None
        self._waiting: list[Waiting] | None = None
        self._as_json = as_json
        self._found: Counter[str] = Counter()

    @property
    def is_clean(self) -> bool:
        return not self._found

    def add(self, offender: Offender) -> None:
        """Print an offender."""
        if self._as_json:
            print(f"{',' if self._found else _JSON_BEGIN}\n  {json.dumps(offender._asdict())}", end="")
        else:
            print(f"{offender.check}  {offender.id}  expected {offender.expected}; found {offender.found}")
        self._found[offender.check] += 1

    def waits(self, waiting: list[Waiting] | None) -> None:
        """Take ingest_api's backlog into the report. None: unknown."""
        self._waiting = waiting
        for it in waiting or ():
            if it.queue == ORDERS_ACCEPTED_QUEUE:
                for offender in unstored(it.queue, it.orders, it.oldest_s, self.lag_s):
                    self.add(offender)

    def end(self, counts: Counts, seconds: float) -> None:
        """Print the counts. Never called for an audit that failed."""
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
            "resent_cancellations": self.resent_cancellations,
            "waiting": as_json(self._waiting),
            "seconds": round(seconds, 3),
            "clean": self.is_clean,
        }
        begun = "\n" if self._found else _JSON_BEGIN
        print(f"{begun}], {json.dumps(rest)[1:]}")

    def _summary(self, counts: Counts, seconds: float) -> list[str]:
        cancelled = f", {counts.cancelled:,} CANCELLED" if counts.cancelled else ""
        verdicts = f"{counts.processed:,} PROCESSED, {counts.failed:,} FAILED{cancelled}"
        pending = (
            f"{counts.pending:,} without a verdict, of which {self._found[NO_VERDICT]:,} for more than {self.lag_s:g} s"
        )
        lines = [
            f"{many(counts.orders, 'order')}: {verdicts}, {pending}",
            f"{_letters(counts)}, {many(counts.products, 'product')}",
            f"one snapshot, {seconds:.1f} s",
        ]
        lines[1:1] = self._not_stored()
        return [*self._repaired(), *lines, self._verdict()]

    def _repaired(self) -> list[str]:
        lines = [] if self.resent is None else [f"{many(self.resent, 'order')} resent"]
        if self.resent_cancellations:
            lines.append(f"{many(self.resent_cancellations, 'cancellation')} resent")
        return lines

    def _not_stored(self) -> list[str]:
        """The accepted orders that no table has yet, so no query finds them."""
        return [
            f"{many(it.orders, 'order')} accepted and not stored yet, the oldest for {it.oldest_s:.0f} s"
            for it in self._waiting or ()
            if it.queue == ORDERS_ACCEPTED_QUEUE and it.orders
        ]

    def _verdict(self) -> str:
        if self.is_clean:
            return "nothing lost, nothing duplicated, nothing oversold"
        found = ", ".join(f"{count:,} {check}" for check, count in self._found.items())
        return f"{many(self._found.total(), 'offender')}: {found}"


_JSON_BEGIN = '{"offenders": ['


def _letters(counts: Counts) -> str:
    waiting = f"{many(counts.dead_letters, 'dead letter')} waiting"
    return f"{waiting}, {counts.discarded:,} discarded" if counts.discarded else waiting
