"""Reads the arguments of `test` and plans the run: static checks, suites, stages of pytest.

It imports only the standard library. The script `headrace` runs `python3 -m stack.develop.suites test ...` before it
installs anything, so a wrong name is reported at once.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Container
from dataclasses import dataclass
from pathlib import Path

from stack.errors import HeadraceError

TESTS = Path(__file__).resolve().parents[2] / "tests"
STATIC = {
    "format": ["-m", "ruff", "format", "--check", "."],
    "lint": ["-m", "ruff", "check", "."],
    "types": ["-m", "mypy"],
    "layers": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}
# The mark of tests that take minutes. They run only if their suite is named, or in `nightly`.
DEEP = "deep"
# The mark of tests that measure time or load the whole machine. No other test runs beside them.
ALONE = "alone"
# Two names for several suites: a check of the latest edit, and everything.
QUICK, NIGHTLY = "quick", "nightly"
# The tests with servers that `quick` runs: the path of an order, from the request to the stock.
QUICK_FILES = [
    "integration/orders/test_ingest_api.py",
    "integration/orders/test_bulk_orders.py",
    "integration/reads/test_order_lookup.py",
    "integration/workers/test_persist_worker.py",
    "integration/stock/test_product_consumer.py",
    "integration/products/test_product_api.py",
]
# Suites that need none of our servers. Every other directory in tests/ is a suite that needs them.
WITHOUT_SERVERS = ("unit", "fuzz", "compose")
# Suites that compute: one process for each core is enough. The others wait most of their time.
COMPUTING = ("unit", "fuzz")
PROCESSES_PER_CORE = 2
# Suites that load the whole machine, or measure each answer's time, so they run one after the other. In other suites,
# tests marked ALONE do.
ONE_BY_ONE = ("chaos", "cluster", "compose", "contract", "soak")
# Arguments of pytest that select tests or inspect one. With one of these, a single pytest runs everything in order.
_FOR_ONE_PROCESS = ("-k", "-m", "-n", "-s", "--pdb", "--lf", "--last-failed", "--ff", "--co", "--chaos-record")
# What else a suite needs of the machine. Without it, a run that names no suites leaves this one out, and says so.
NEEDS = {
    "compose": "a Docker engine, or root and the right to start one",
    "cluster": "root, the right to make network namespaces, and iproute2",
}
# Suites that this run must not leave out, as in CI: it fails instead.
REQUIRED = "HEADRACE_TEST_REQUIRED"
# A suite of one file, in another suite's directory. It runs for as long as it is told to, and only if it is named.
SOAK, SOAK_FILE = "soak", "chaos/soak.py"
MINUTES = "--minutes"
_SOAKING = "./headrace test soak --minutes 10"
_ENGINE = "/var/run/docker.sock"
# CAP_NET_ADMIN and CAP_SYS_ADMIN.
_ADMINISTERS = 1 << 12 | 1 << 21


@dataclass(frozen=True)
class Stage:
    """One start of pytest."""

    name: str
    suites: list[str]
    arguments: list[str]
    may_be_empty: bool = False
    """Whether it is no error if no test matches."""

    @property
    def paths(self) -> list[str]:
        return [f"tests/{SOAK_FILE if suite == SOAK else suite}" for suite in self.suites]


@dataclass(frozen=True)
class Plan:
    """What one run does: static checks, then test directories, in order, with these arguments for pytest."""

    static: list[str]
    suites: list[str]
    pytest_arguments: list[str]
    left_out: list[str]
    """Suites that this machine cannot run, and that were not named."""
    deep: bool
    """Whether tests that take minutes run too."""

    @property
    def needs_servers(self) -> bool:
        return any(suite not in WITHOUT_SERVERS for suite in self.suites)

    def stages(self, cores: int, tests: Path = TESTS) -> list[Stage]:
        """The starts of pytest, in order: tests that compute, tests that wait, tests that run alone."""
        if any(argument.startswith(_FOR_ONE_PROCESS) for argument in self.pytest_arguments):
            return [Stage("one by one", self.suites, self._marked())]
        computing = [suite for suite in self.suites if suite in COMPUTING]
        # The integration tests come last: they are many and short, so all processes end at about the same time.
        waiting = [suite for suite in self.suites if suite not in (*COMPUTING, *ONE_BY_ONE)]
        waiting.sort(key=lambda suite: suite.startswith("integration"))
        stages = [
            Stage("unit", computing, [*self._marked(f"not {ALONE}"), *_side_by_side(cores)]),
            Stage("side by side", waiting, [*self._marked(f"not {ALONE}"), *_side_by_side(PROCESSES_PER_CORE * cores)]),
            Stage("one by one", _with_tests_alone(self.suites, tests), self._marked(ALONE), may_be_empty=True),
        ]
        return [stage for stage in stages if stage.suites]

    def _marked(self, *marks: str) -> list[str]:
        """The arguments for pytest, with `-m` for the marks that a test must have and must not have."""
        marks = (*marks, *([] if self.deep else [f"not {DEEP}"]))
        return [*(["-m", " and ".join(marks)] if marks else []), *self.pytest_arguments]


def _with_tests_alone(suites: list[str], tests: Path) -> list[str]:
    """The suites with a test marked ALONE. Collecting the others would take longer than running these."""
    mark = f"pytest.mark.{ALONE}"
    return [
        suite
        for suite in suites
        if suite in ONE_BY_ONE or any(mark in file.read_text() for file in (tests / suite).rglob("test_*.py"))
    ]


def _side_by_side(processes: int) -> list[str]:
    return ["-n", str(processes), "--dist", "loadgroup"]


def available_suites(tests: Path = TESTS) -> list[str]:
    """The directories in tests/ that hold tests: unit, integration, system, then the others. [] in an image."""
    if not tests.is_dir():
        return []
    found = {path.name for path in tests.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    known = [name for name in ("unit", "integration", "system") if name in found]
    soak = [SOAK] if (tests / SOAK_FILE).exists() else []
    return known + sorted(found - set(known)) + soak


def by_default(suites: list[str], impossible: Container[str] = ()) -> list[str]:
    """The checks and suites of a run that names none: all except the soak and the `impossible` ones."""
    return [name for name in (*STATIC, *suites) if name != SOAK and name not in impossible]


def impossible_here() -> list[str]:
    """The suites of NEEDS that this user cannot run on this machine. Starts nothing to find out."""
    administers = _has_capabilities()
    may_start_one = administers and any(map(shutil.which, ("dockerd", "apt-get")))
    possible = {
        "compose": may_start_one or os.access(_ENGINE, os.R_OK | os.W_OK),
        "cluster": administers and shutil.which("ip") is not None,
    }
    return [name for name in NEEDS if not possible[name]]


def _has_capabilities() -> bool:
    """Whether this process may administer the system and its networks. Root in a container often may not."""
    try:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return False
    return found is not None and int(found[1], 16) & _ADMINISTERS == _ADMINISTERS


def plan(
    arguments: list[str], suites: list[str], impossible: Container[str] = (), required: Collection[str] = ()
) -> Plan:
    """Read the command line. `impossible`: suites that run only if they are named.

    Raises HeadraceError for an unknown suite, and if one of `required` is unknown or would be left out.
    """
    names, rest = split(arguments)
    names, minutes = _minutes(names)
    known = [*STATIC, *suites, QUICK, NIGHTLY]
    for name in names:
        if name.startswith("-"):
            after = " ".join(arguments[arguments.index(name) :])
            raise HeadraceError(
                f"`test` has no option {name!r}",
                "pytest's own arguments go after --",
                f"./headrace test {' '.join([*names[: names.index(name)], '--', after])}",
            )
        if name not in known:
            raise HeadraceError(f"no suite {name!r}", f"the suites are: {', '.join(known)}", "./headrace test unit")
    everything = not names or NIGHTLY in names
    chosen = by_default(suites, impossible) if everything else [*names, *(STATIC if QUICK in names else ())]
    quick = ["unit", *QUICK_FILES] if QUICK in names else []
    deep = bool(names) and QUICK not in names
    for name in required:
        if name not in NEEDS:
            cause = f"it may name: {' '.join(NEEDS)}"
            raise HeadraceError(f"{REQUIRED} names {name!r}", cause, f'{REQUIRED}="{" ".join(NEEDS)}"')
    left_out = [name for name in suites if everything and name in impossible and name not in names]
    for name in left_out:
        if name in required:
            raise HeadraceError(
                f"cannot run {name}, which {REQUIRED} names", f"it needs {NEEDS[name]}", f"or: unset {REQUIRED}"
            )
    static = [name for name in STATIC if name in chosen]
    return Plan(static, _without_repeats(quick, suites, chosen), [*minutes, *rest], left_out, deep)


def _without_repeats(quick: list[str], suites: list[str], chosen: Collection[str]) -> list[str]:
    """The chosen suites, then the `quick` files that are in none of them."""
    whole = [name for name in suites if name in chosen]
    return whole + [name for name in quick if name.partition("/")[0] not in whole]


def _minutes(names: list[str]) -> tuple[list[str], list[str]]:
    """Split off `--minutes M`. Returns the other names, and these two or []. Raises HeadraceError."""
    if MINUTES not in names:
        return names, []
    at = names.index(MINUTES)
    others, minutes = names[:at] + names[at + 2 :], names[at + 1 : at + 2]
    if SOAK not in others:
        raise HeadraceError(f"{MINUTES} is for {SOAK} alone", "no other suite runs for a given time", _SOAKING)
    if not minutes or not minutes[0].isdecimal() or int(minutes[0]) == 0:
        raise HeadraceError(f"{MINUTES} takes a whole number", "it has none", _SOAKING)
    return others, [MINUTES, *minutes]


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


if __name__ == "__main__":
    try:
        plan(sys.argv[2:], available_suites())
    except HeadraceError as error:
        sys.exit("\n".join(error.lines()))
