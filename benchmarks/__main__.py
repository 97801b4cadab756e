"""python -m benchmarks [--quick] [--json] [--only NAME] [--document]: runs the benchmarks for `./headrace bench`."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.headrace import ALONE
from benchmarks.experiments import experiments
from benchmarks.experiments.ablations import ABLATIONS
from benchmarks.experiments.limits import LIMITS
from benchmarks.report import __main__ as report
from benchmarks.report import results
from benchmarks.report.results import Described, Results, Skipped
from benchmarks.run import machine
from benchmarks.run.plan import FULL, QUICK, Progress, Scale, Step, as_time, left_s, title_of
from benchmarks.run.servers import Servers, make_template, private_servers
from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home

RESULTS = Path(__file__).with_name("results")
INTERRUPTED = 130


class UnknownName(ValueError):
    """--only names neither an experiment nor a contender. The text lists both."""


def main() -> int:
    """Run the benchmarks. Returns 0 if all was measured, 2 for wrong arguments, 130 if interrupted.

    Returns 1 if a run was void, all runs at 1,000/s were disturbed, or Headrace itself failed one.
    """
    arguments = _arguments()
    scale = QUICK if arguments.quick else FULL
    try:
        steps, skipped = choose(arguments.only, scale, quick=arguments.quick)
    except UnknownName as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.plan:
        print("\n".join(outline(steps)), file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    budget_s = None if arguments.only else scale.budget_s
    if arguments.document and not arguments.results.resolve().is_relative_to(ROOT):
        print(f"error: --document quotes files of {ROOT} only", file=sys.stderr)
        return 2
    progress = begin(arguments, skipped, budget_s)
    code = run(progress, steps, as_json=arguments.json)
    if arguments.document and code == 0:
        return report.tell([str(progress.file.relative_to(ROOT))])
    return code


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="headrace bench", description="How fast, beside what, at what price.")
    parser.add_argument("--quick", action="store_true", help="6 minutes instead of 45")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON on standard output")
    parser.add_argument("--only", metavar="NAME", help=f"one experiment or contender: {', '.join(names())}")
    parser.add_argument(
        "--document", action="store_true", help="quote it in README.md and docs/, and draw the plots anew"
    )
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--results", metavar="DIRECTORY", type=Path, default=RESULTS, help="where the file goes")
    return parser.parse_args()


def names() -> list[str]:
    return [*experiments.EXPERIMENTS, *experiments.GROUPS, *(it.name for it in experiments.CONTENDERS)]


def choose(only: str | None, scale: Scale, *, quick: bool) -> tuple[list[Step], list[Skipped]]:
    """The steps to run, in order, and those skipped from the start. Raises UnknownName."""
    if (named := {**experiments.EXPERIMENTS, **experiments.GROUPS}.get(only or "")) is not None:
        return named(scale), []
    if only is not None:
        found = [it for it in experiments.CONTENDERS if it.name == only]
        if not found:
            raise UnknownName(f"no experiment or contender {only!r}; there are: {', '.join(names())}")
        return experiments.by_itself(found[0], scale), []
    left_out = [name for name in experiments.EXPERIMENTS if name in experiments.ONLY_BY_NAME]
    if quick:
        left_out = [name for name in experiments.EXPERIMENTS if name not in experiments.IN_QUICK]
    steps = [step for name, make in experiments.EXPERIMENTS.items() if name not in left_out for step in make(scale)]
    return steps, [Skipped(name, name, f"not in this run: --only {name}") for name in left_out]


def outline(steps: Sequence[Step]) -> list[str]:
    """One line for each step, with its time."""
    lines = [f"{as_time(step.seconds):>6}  {title_of(step.place, step.contender, step.load)}" for step in steps]
    return [*lines, f"{as_time(left_s(steps)):>6}  in all"]


def file_name(cpu: str, started: datetime, *, quick: bool, only: str | None) -> str:
    """The name of the result file. A partial run says so in its name."""
    words = [f"{started:%Y-%m-%d}", machine.short_name(cpu), *([only] if only else []), *(["quick"] if quick else [])]
    return f"{'-'.join(words)}.json"


def described(contenders: Sequence[Contender]) -> list[Described]:
    told = [Described(it.name, it.title, it.what, it.guarantee, it.peer) for it in contenders]
    return told + [
        Described(it.title, it.title, "Headrace without one thing.", it.loses, peer=False) for it in ABLATIONS
    ]


def exit_code(found: Results) -> int:
    """1 if Headrace failed a run, or was disturbed all the time: such a benchmark proves nothing."""
    failed = any(run.failed and run.contender.startswith("headrace") for run in found.runs)
    if results.void_runs(found) or failed or results.was_always_disturbed(found):
        return 1
    return INTERRUPTED if found.interrupted else 0


# ── I/O below


def begin(arguments: argparse.Namespace, skipped: list[Skipped], budget_s: float | None) -> Progress:
    """Empty results, with all that is known before the first step."""
    here, started = machine.look(ROOT), datetime.now(UTC)
    found = Results(
        started_at=started.isoformat(timespec="seconds"),
        revision=machine.revision(),
        quick=arguments.quick,
        only=arguments.only,
        machine=here,
        contenders=described([*experiments.CONTENDERS, ALONE, *(it.contender for it in LIMITS.values())]),
        skipped=skipped,
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    file = arguments.results / file_name(here.cpu, started, quick=arguments.quick, only=arguments.only)
    return Progress(found, file.absolute(), budget_s)


def run(progress: Progress, steps: list[Step], *, as_json: bool) -> int:
    """Start servers, run the steps, write the result file. Returns the exit code."""
    planned_s = min(left_s(steps), progress.budget_s or math.inf)
    progress.tell(f"{len(steps)} steps, about {as_time(planned_s)} min; results go to {progress.file}")
    try:
        with private_servers(Home.current().path / f"test-bench-{os.getpid()}") as servers:
            progress.tell("PostgreSQL, RabbitMQ and Redis run")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_work_off(progress, steps, servers))
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress.results.interrupted = True
        progress.tell("interrupted; what was measured is kept")
    except HeadraceError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return 1
    progress.save()
    _conclude(progress, report.write_html(progress.results, progress.file), as_json=as_json)
    return exit_code(progress.results)


async def _work_off(progress: Progress, steps: list[Step], servers: Servers) -> None:
    working = asyncio.current_task()
    assert working is not None
    # SIGINT does the same by itself: see asyncio.Runner.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
    await make_template(servers)
    await progress.work_off(steps, servers)


def _conclude(progress: Progress, page: Path, *, as_json: bool) -> None:
    files = {"result_file": str(progress.file), "report_file": str(page)}
    found = results.summary(progress.results) | files
    for name, value in found["verdict"].items():
        print(f"  {name}: {value}", file=sys.stderr)
    for kind in ("void_runs", "disturbed_runs", "failed_runs"):
        for run in found[kind]:
            print(f"  {kind[:-5]}: {run['contender']}, {run['load']}: {run['reason']}", file=sys.stderr)
    print(f"  results: {progress.file}\n  report:  {page}", file=sys.stderr)
    if as_json:
        print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
