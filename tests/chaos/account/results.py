"""Results of scenarios: rows, their file, and the table in docs/reliability.md. Pure, except for the files."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.report.tables import Table, markdown
from stack.home.directory import ROOT

FILE = ROOT / "docs" / "reliability.json"
DOCUMENT = ROOT / "docs" / "reliability.md"
SCENARIOS = 27
# This many runs in a row must pass.
KEPT_RUNS = 3

_BLOCK = re.compile(r"^<!-- chaos -->\n.*?^<!-- /chaos -->$", re.MULTILINE | re.DOTALL)
_HEAD = (
    *("", "scenario", "offered", "OK", "refused", "UNKNOWN", "lost", "duplicated", "oversold"),
    *("back after, s", "broken", "runs"),
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario of one run. Numbers are orders."""

    scenario: str
    what: str
    offered: int
    ok: int
    refused: int
    unknown: int
    """Orders of unknown outcome at first. A retry with the key counts them as OK as well."""
    unknown_as: dict[str, int]
    """Status and problem → number of requests; status 0: no answer."""
    lost: int
    duplicated: int
    oversold: int
    recover_s: float | None
    """From the end of the fault to recovery; None: throughput did not recover."""
    broken: list[str]
    """Violated invariants; "test": another assertion failed, or the scenario never reached its check."""

    def line(self) -> str:
        """One line for the terminal."""
        back = "never back" if self.recover_s is None else f"back after {self.recover_s:.1f} s"
        verdict = f"BROKEN: {', '.join(self.broken)}" if self.broken else "holds"
        seen = ", ".join(f"{count} × {it}" for it, count in self.unknown_as.items())
        return (
            f"{self.scenario:>4}  {self.what}: {self.offered} offered, {self.ok} OK, {self.refused} refused, "
            f"{self.unknown} UNKNOWN{f' ({seen})' if seen else ''}, {self.lost} lost, {self.duplicated} duplicated, "
            f"{self.oversold} oversold, {back}; {verdict}"
        )


class Run(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    at: str
    """UTC, ISO 8601."""
    machine: str
    commit: str
    """The tested commit, with a "+" if the tree had changes."""
    rows: list[Row]


class Results(msgspec.Struct, frozen=True):
    """The last runs, oldest first."""

    runs: list[Run] = []


def with_run(results: Results, run: Run) -> Results:
    return Results([*results.runs, run][-KEPT_RUNS:])


def table(results: Results) -> str:
    """All runs as one table: sums, and the longest recovery."""
    rows = [_cells(list(rows)) for _, rows in _by_scenario(results)]
    seeds = ", ".join(f"{run.seed} ({run.at[:10]}, {run.commit}, {run.machine})" for run in results.runs)
    return markdown(Table(_HEAD, rows, words=(0, 1, 10), below=f"Seeds: {seeds or 'none'}."))


def _by_scenario(results: Results) -> list[tuple[tuple[str, str], list[Row]]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in (row for run in results.runs for row in run.rows):
        found.setdefault((row.scenario, row.what), []).append(row)
    return sorted(found.items(), key=lambda it: _order(it[0]))


def _order(name: tuple[str, str]) -> tuple[int, str, str]:
    """Sort numbers numerically: 2 before 10."""
    number = re.match(r"\d*", name[0])
    assert number is not None
    return int(number[0] or 0), *name


def _cells(rows: list[Row]) -> tuple[str, ...]:
    recovered = [row.recover_s for row in rows]
    longest = "never" if None in recovered else f"{max(it for it in recovered if it is not None):.1f}"
    broken = sorted({name for row in rows for name in row.broken})
    counts = (
        sum(getattr(row, name) for row in rows)
        for name in ("offered", "ok", "refused", "unknown", "lost", "duplicated", "oversold")
    )
    figures = (f"{count:,}" for count in counts)
    return rows[0].scenario, rows[0].what, *figures, longest, ", ".join(broken) or "nothing", str(len(rows))


def rewritten(document: str, results: Results) -> str:
    """The document with the table between its markers. Raises ValueError if it has none."""
    text, count = _BLOCK.subn(lambda _: f"<!-- chaos -->\n\n{table(results)}\n\n<!-- /chaos -->", document)
    if count != 1:
        raise ValueError(f"{count} blocks between <!-- chaos --> and <!-- /chaos -->, not 1")
    return text


# ── I/O below


def load(file: Path = FILE) -> Results:
    return msgspec.json.decode(file.read_bytes(), type=Results) if file.exists() else Results()


def record(run: Run) -> None:
    """Add a run to the file, and rewrite the document."""
    results = with_run(load(), run)
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), results))


def make_run(seed: int, at: str, machine: str, commit: str, rows: Iterable[Row]) -> Run:
    return Run(seed=seed, at=at, machine=machine, commit=commit, rows=list(rows))


def unfinished(what: str, scenario: str) -> Row:
    """The row of a scenario that was skipped, or failed before its check."""
    return Row(
        scenario=scenario,
        what=what,
        offered=0,
        ok=0,
        refused=0,
        unknown=0,
        unknown_as={},
        lost=0,
        duplicated=0,
        oversold=0,
        recover_s=None,
        broken=["test"],
    )


def missing(rows: Iterable[Row]) -> list[str]:
    """The numbers of scenarios without a row."""
    found = {row.scenario for row in rows}
    return [number for number in map(str, range(1, SCENARIOS + 1)) if number not in found]
