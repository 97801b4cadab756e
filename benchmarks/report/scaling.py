"""What docs/scaling.md says in numbers: more workers on one machine, as measured; and more machines, as reckoned.

python -m benchmarks.report.scaling        writes the tables anew, from the result files
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path

import msgspec

from benchmarks.report.results import SATURATED, Results, median_by_part
from benchmarks.report.tables import Table, markdown, of
from stack.home.directory import ROOT

RESULT = Path(__file__).parents[1] / "results" / "scale.json"
DOCUMENT = ROOT / "docs" / "scaling.md"

# How full a core may be in the mean, so that a second of twice the load is a backlog of a second and no more.
UTILISATION = 0.6
RATES = (1_000, 10_000, 100_000, 1_000_000)
# What one node of the broker does here, three do there: each keeps a copy of a quorum queue.
BROKER_COPIES = 3
# A cell is a pair of queues and a database. A queue is one Raft group behind one Erlang process, and an order is some
# 250 bytes: at this rate 25 MB/s go through each, and twice that on to the other two nodes. No queue was driven so hard
# here (30,000 orders/s is what two cores did); beyond it, more cells are the safe assumption.
CELL_ORDERS_PER_S = 100_000
_BLOCK = re.compile(
    r"^(?P<mark><!-- scale:(?P<name>\w+) from (?P<file>\S+) -->)\n.*?^<!-- /scale -->$", re.MULTILINE | re.DOTALL
)
PARTS = ("ingest_api", "rabbitmq", "persist_worker", "product_consumer", "postgres")


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, with the machine for itself."""

    stage: str
    workers: int
    products: str
    orders_per_s: int
    cpu_us_per_order: dict[str, float]
    """User and system time by part, from when all workers were ready."""
    busy_share: float
    steal_share: float


class Scale(msgspec.Struct, frozen=True):
    at: str
    machine: str
    orders: int
    stages: list[Stage]


def measured(found: Scale) -> Table:
    """Medians, the stages one after the other."""
    head = (
        "stage",
        "orders for",
        "workers",
        "orders/s",
        "against 1",
        "CPU µs/order: worker",
        "PostgreSQL",
        "RabbitMQ",
        "machine busy",
    )
    rows = [row for key in _keys(found.stages) for row in [_row(found.stages, *key)]]
    steal = statistics.median(it.steal_share for it in found.stages)
    below = f"{found.orders:,} orders a run; {found.machine}; {found.at[:10]}; others took {steal:.0%} of the machine."
    return Table(head, rows, words=(0, 1), below=below)


def _keys(stages: Iterable[Stage]) -> list[tuple[str, str, int]]:
    return sorted({(it.stage, it.products, it.workers) for it in stages})


def _row(stages: Sequence[Stage], stage: str, products: str, workers: int) -> tuple[str, ...]:
    these = [it for it in stages if (it.stage, it.products, it.workers) == (stage, products, workers)]
    alone = [it for it in stages if (it.stage, it.products, it.workers) == (stage, products, 1)]
    rate, first = (statistics.median(it.orders_per_s for it in them) for them in (these, alone))
    cpu = (
        statistics.median(it.cpu_us_per_order.get(part, 0) for it in these) for part in (stage, "postgres", "rabbitmq")
    )
    busy = statistics.median(it.busy_share for it in these)
    figures = (f"{value:.0f}" for value in cpu)
    return stage, products, str(workers), f"{rate:,.0f}", f"{rate / first:.2f} ×", *figures, f"{busy:.0%}"


def cost(cpu_us: dict[str, float]) -> Table:
    """CPU time of one order in each part, in microseconds."""
    whole = sum(cpu_us[part] for part in PARTS)
    return Table((*PARTS, "all"), [tuple(f"{it:.0f}" for it in (*(cpu_us[part] for part in PARTS), whole))], words=())


def reckoned(cpu_us: dict[str, float]) -> Table:
    """Processes, nodes and cores for a rate, from the CPU time of one order in each part."""
    head = (
        *("orders/s", "cells", "ingest_api", "persist_worker", "product_consumer"),
        *("broker nodes (cores)", "database servers (cores)"),
    )
    return Table(head, [_plan(rate, cpu_us) for rate in RATES], words=())


def _plan(rate: int, cpu_us: dict[str, float]) -> tuple[str, ...]:
    cores = {part: rate * cpu_us[part] / 1e6 / UTILISATION for part in PARTS}
    processes = (f"{ceil(cores[part]):,}" for part in ("ingest_api", "persist_worker", "product_consumer"))
    cells = ceil(rate / CELL_ORDERS_PER_S)
    broker, database = ceil(cores["rabbitmq"] * BROKER_COPIES), ceil(cores["postgres"])
    return f"{rate:,}", f"{cells}", *processes, f"{3 * cells} ({broker})", f"{cells} ({database})"


def rewritten(document: str, table: Callable[[str, str], Table]) -> str:
    """The document with each table between its markers. `table`: of this name, from this file."""

    def block(found: re.Match[str]) -> str:
        return f"{found['mark']}\n\n{markdown(table(found['name'], found['file']))}\n\n<!-- /scale -->"

    return _BLOCK.sub(block, document)


# ── I/O below


def table_of(name: str, file: str) -> Table:
    data = (ROOT / file).read_bytes()
    if name == "measured":
        return measured(msgspec.json.decode(data, type=Scale))
    if name in ("cost", "reckoned"):
        runs = of(msgspec.json.decode(data, type=Results), "saturation", contender="headrace", load=SATURATED)
        return (cost if name == "cost" else reckoned)(median_by_part(runs))
    raise ValueError(f"no table of {name!r}")


def save(found: Scale) -> None:
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    tell()


def tell() -> None:
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text(), table_of))


if __name__ == "__main__":
    tell()
