"""Measures what orders as shops send them cost, beside plain orders of one line: baskets, details, cancellations.

python -m benchmarks.experiments.shop_orders [--rounds N] [--seconds S] [--only KIND] [--against DIRECTORY]

Each round loads each kind of order once, on a deployment of its own, one kind right after the other; the next round
begins with the next kind. So each ratio is of neighbours in time. `--against`: also plain orders of one line on another
checkout of Headrace, with its own migrations and the same servers and interpreter. `--only`, as often as wanted: a kind
of order, by its name in the table; without plain orders there are no ratios.

Prints orders/s that were accepted, orders/s until all was decided and every cancellation was settled, and the CPU of
an order by process. The result goes to benchmarks/results. Exits 1 if a run was void or failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.headrace import HEADRACE
from benchmarks.experiments.steps import under_loads
from benchmarks.generators.bodies import PLAIN, Shape
from benchmarks.generators.generators import Load
from benchmarks.report import results
from benchmarks.report.number_format import NOTHING, number, percent
from benchmarks.report.results import Described, Results, Run, accepted, end_to_end, median_of, ratios, select, spread
from benchmarks.report.tables import COLUMNS, Table, by_column, cpu_us, markdown
from benchmarks.run import machine
from benchmarks.run.plan import Progress, Step
from benchmarks.run.servers import Servers, make_template, private_servers
from stack.home.directory import ROOT, Home

NAME = "shop_orders"
RESULTS = Path(__file__).parents[1] / "results"
WARM_UP_S = 1.0
_BASKETS, _HOT = Shape("baskets", lines=3), Shape("hot", lines=3, is_hot=True)


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    name: str
    shape: Shape = PLAIN
    cancelled: float = 0.0
    goal: float | None = None
    """At least this share of the orders/s of `beside`, all decided."""
    beside: str = "one line"

    def load(self, seconds: float, connections: int) -> Load:
        return Load(seconds, connections, shape=self.shape, cancelled=self.cancelled)


ONE_LINE = Kind("one line")
BASKETS = Kind("3 lines", _BASKETS, goal=0.60)
KINDS = (
    ONE_LINE,
    BASKETS,
    Kind("3 lines, one of them a hot product", _HOT, goal=0.80, beside=BASKETS.name),
    Kind("one line, reference and 2 pairs", Shape("detailed", is_detailed=True), goal=0.80),
    Kind("one line, 5 % cancelled at once", cancelled=0.05, goal=0.85),
)
OLDER = Kind("one line, the other checkout")
LEAST_OF_OLDER, MOST_CPU_OF_OLDER = 0.97, 1.03


def steps_of(
    rounds: int, seconds: float, connections: int, kinds: Sequence[Kind] = KINDS, older: Contender | None = None
) -> list[Step]:
    """Round after round; each begins with another kind."""
    return [
        under_loads(NAME, contender, pair, [(kind.load(seconds, connections), kind.name)], warm_up_s=WARM_UP_S)
        for pair in range(1, rounds + 1)
        for at in range(len(kinds))
        for kind, contender in _neighbours(kinds[(at + pair) % len(kinds)], older, pair)
    ]


def _neighbours(kind: Kind, older: Contender | None, pair: int) -> list[tuple[Kind, Contender]]:
    """The kind; plain orders together with the other checkout's, each of which comes first every other time."""
    if older is None or kind is not ONE_LINE:
        return [(kind, HEADRACE)]
    both = [(OLDER, older), (ONE_LINE, HEADRACE)]
    return both if pair % 2 else both[::-1]


def tables(runs: Sequence[Run]) -> list[Table]:
    """Rates and goals, then the CPU of an order."""
    kinds = [kind for kind in (*KINDS, OLDER) if _of(runs, kind.name)]
    return [_rates(runs, kinds), _cpu(runs, kinds)]


def _rates(runs: Sequence[Run], kinds: Sequence[Kind]) -> Table:
    head = ("orders", "accepted/s", "decided/s", "accepted, of one line", "decided, of one line", "goal", "runs")
    rows = [
        (
            kind.name,
            number(median_of(_of(runs, kind.name), accepted)),
            number(median_of(_of(runs, kind.name), end_to_end)),
            _ratio(runs, kind.name, ONE_LINE.name, accepted),
            _ratio(runs, kind.name, ONE_LINE.name, end_to_end),
            _goal(runs, kind),
            str(len(_of(runs, kind.name))),
        )
        for kind in kinds
    ]
    return Table(head, rows, words=(0, 5), below="Medians. Ratios: of the same round, with the lowest and the highest.")


def _goal(runs: Sequence[Run], kind: Kind) -> str:
    """What was to be reached, and whether it was, by the median."""
    if kind is ONE_LINE and _of(runs, OLDER.name):
        rate, cpu = (_ratio(runs, ONE_LINE.name, OLDER.name, of) for of in (end_to_end, cpu_us))
        return f"≥ {percent(LEAST_OF_OLDER)} of the other checkout: {rate}; CPU ≤ {percent(MOST_CPU_OF_OLDER)}: {cpu}"
    if kind.goal is None:
        return ""
    return f"≥ {percent(kind.goal)} of {kind.beside}: {_ratio(runs, kind.name, kind.beside, end_to_end)}"


def _cpu(runs: Sequence[Run], kinds: Sequence[Kind]) -> Table:
    head = ("CPU µs an order", "all", "of one line", *COLUMNS, "generator")
    rows = []
    for kind in kinds:
        found = _of(runs, kind.name)
        parts = by_column(found)
        generator = results.median_by_part(found).get("generator")
        rows.append(
            (
                kind.name,
                number(median_of(found, cpu_us)),
                _ratio(runs, kind.name, ONE_LINE.name, cpu_us),
                *(number(parts.get(column)) for column in COLUMNS),
                number(generator),
            )
        )
    return Table(head, rows)


def _of(runs: Sequence[Run], kind: str) -> list[Run]:
    return select(runs, NAME, variant=kind)


def _ratio(runs: Sequence[Run], this: str, that: str, figure: Callable[[Run], float]) -> str:
    found = spread(ratios(_of(runs, this), _of(runs, that), figure))
    return NOTHING if found is None else f"{found.median:.1%} ({found.low:.0%} to {found.high:.0%})"


# ── I/O below


def older_release(checkout: Path) -> Contender:
    """Headrace as another checkout has it. Raises OSError if it is none."""
    if not (checkout / "ingest_api").is_dir():
        raise OSError(f"{checkout} is no checkout of Headrace")
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True, check=False
    )
    revision = told.stdout.strip() or "unknown"
    title = f"Headrace at {revision}"
    return replace(HEADRACE, name=f"headrace-{revision}", title=title, checkout=checkout.resolve())


def begin(results_in: Path, contenders: Sequence[Contender]) -> Progress:
    here, started = machine.look(ROOT), datetime.now(UTC)
    found = Results(
        started_at=started.isoformat(timespec="seconds"),
        revision=machine.revision(),
        quick=False,
        only=NAME,
        machine=here,
        contenders=[Described(it.name, it.title, it.what, it.guarantee, it.peer) for it in contenders],
    )
    results_in.mkdir(parents=True, exist_ok=True)
    return Progress(found, results_in / f"{started:%Y-%m-%d}-{machine.short_name(here.cpu)}-{NAME}.json", None)


def main() -> int:
    """Returns 1 if a run was void or failed."""
    given = _arguments()
    older = older_release(given.against) if given.against else None
    progress = begin(given.results, [HEADRACE, *([older] if older else [])])
    kinds = [it for it in KINDS if not given.only or it.name in given.only]
    steps = steps_of(given.rounds, given.seconds, given.connections, kinds, older)
    with (
        private_servers(Home.current().path / f"test-bench-{os.getpid()}") as servers,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_work_off(progress, steps, servers))
    progress.save()
    runs = progress.results.runs
    print("\n\n".join(map(markdown, tables(runs))))
    bad = [f"{run.variant} #{run.pair}: {run.void or run.failed}" for run in runs if run.void or run.failed]
    print("\n".join(bad), file=sys.stderr)
    return 1 if bad else 0


async def _work_off(progress: Progress, steps: Sequence[Step], servers: Servers) -> None:
    await make_template(servers)
    await progress.work_off(steps, servers)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="each takes about a minute and a half")
    parser.add_argument("--seconds", type=float, default=7, help="of each load")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--only", action="append", choices=[it.name for it in KINDS], metavar="KIND")
    parser.add_argument("--against", type=Path, metavar="DIRECTORY", help="another checkout, for plain orders")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
