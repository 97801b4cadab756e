"""`test`: the static checks, then pytest on servers of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stack.console import follow, say, step_done
from stack.errors import HeadraceError
from stack.home import ROOT, Home
from stack.identity import wrap
from stack.install import ensure_servers
from stack.launch import Launched, PrivateServers, launch, read_private_servers
from stack.state import SERVERS

STATIC = {
    "format": ["-m", "ruff", "format", "--check", "."],
    "lint": ["-m", "ruff", "check", "."],
    "types": ["-m", "mypy"],
    "layers": ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
}
# These need no server. Any other directory in tests/ is a suite that does.
WITHOUT_SERVERS = ("unit",)
# Not part of the default run: minutes, or tools that not every machine has. Ask for them by name.
BY_NAME_ONLY = ("chaos", "compose")


@dataclass(frozen=True)
class Plan:
    """What one run does: static checks and test directories, in order, and what is passed on to pytest."""

    static: list[str]
    suites: list[str]
    pytest_arguments: list[str]

    @property
    def needs_servers(self) -> bool:
        return any(suite not in WITHOUT_SERVERS for suite in self.suites)


def available_suites(tests: Path) -> list[str]:
    """The directories in tests/ that hold tests; unit, integration, system first."""
    found = {path.name for path in tests.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    known = [name for name in ("unit", "integration", "system") if name in found]
    return known + sorted(found - set(known))


def plan(arguments: list[str], suites: list[str]) -> Plan:
    """Read the command line. Raises HeadraceError for an unknown suite."""
    names, rest = split(arguments)
    known = [*STATIC, *suites]
    for name in names:
        if name not in known:
            raise HeadraceError(f"no suite {name!r}", f"the suites are: {', '.join(known)}", "./headrace test unit")
    chosen = names or [name for name in known if name not in BY_NAME_ONLY]
    return Plan([name for name in STATIC if name in chosen], [name for name in suites if name in chosen], rest)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def run_suites(home: Home, arguments: list[str]) -> int:
    """Run what was asked for; returns 0 when all of it passed, 1 otherwise, 130 when interrupted."""
    run = plan(arguments, available_suites(ROOT / "tests"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    since = time.monotonic()
    results: dict[str, bool] = {}
    try:
        with ExitStack() as stack:
            # They start while the static checks run.
            launched = stack.enter_context(_Servers(home)) if run.needs_servers else None
            for name in run.static:
                results[name] = _check(name)
            if run.suites:
                results["tests"] = _pytest(run, _wait_for(launched) if launched else None)
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    return _summary(results, time.monotonic() - since)


class _Servers:
    """Launched servers of one test run, in a directory of their own that goes with them."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def __enter__(self) -> Launched:
        _remove_leftovers(self._home)
        ensure_servers(self._home, [server for server in SERVERS if _is_missing(server)])
        self._launched = launch("servers", Home(self._home.path / f"test-{os.getpid()}"))
        return self._launched

    def __exit__(self, *_: object) -> None:
        self._launched.close()


def _is_missing(server: str) -> bool:
    from stack import binaries

    return binaries.find(server) is None


def _remove_leftovers(home: Home) -> None:
    """What test runs left that were killed together with their keepers."""
    for directory in home.path.glob("test-*"):
        if not (left := Home(directory)).is_held():
            left.purge()


def _wait_for(launched: Launched) -> PrivateServers:
    say("servers of this run:")
    follow(launched, until="ready")
    return read_private_servers(launched.home)


def _check(name: str) -> bool:
    """One static check; its output is only worth reading when it fails."""
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, *STATIC[name]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    step_done(name, time.monotonic() - since, ok=done.returncode == 0)
    if done.returncode != 0:
        say(done.stdout.rstrip())
    return done.returncode == 0


def _pytest(run: Plan, servers: PrivateServers | None) -> bool:
    since = time.monotonic()
    directories = [f"tests/{suite}" for suite in run.suites]
    environment = {**os.environ, **(servers.environment() if servers else {})}
    # pytest's own lines and colours go straight to the terminal.
    sys.stdout.flush()
    # SIGINT when we are killed: pytest then ends what its tests have started. A shell starts background jobs with that
    # signal ignored, which children inherit: hence env.
    pytest = ["env", "--default-signal=INT", sys.executable, "-m", "pytest"]
    command = wrap([*pytest, *directories, *run.pytest_arguments], None, signal.SIGINT)
    child = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()  # the terminal told it too: let it print what it has
        raise
    step_done(f"pytest {' '.join(run.suites)}", time.monotonic() - since, ok=code == 0)
    return code == 0


def _summary(results: dict[str, bool], seconds: float) -> int:
    failed = [name for name, passed in results.items() if not passed]
    verdict = f"failed: {', '.join(failed)}" if failed else "all passed"
    say(f"headrace test: {verdict} ({', '.join(results)}) in {seconds:.1f} s")
    return 1 if failed else 0


def hold_servers(home: Home) -> int:
    """Run test servers in `home`/servers until Ctrl-C."""
    directory = Home(home.path / "servers")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ensure_servers(home, [server for server in SERVERS if _is_missing(server)])
    launched = launch("servers", directory)
    try:
        environment = _wait_for(launched).environment()
        say("\n".join(f"export {name}={value}" for name, value in environment.items()))
        for _ in launched.events():
            pass
    except KeyboardInterrupt:
        say("stopping")
    finally:
        launched.close()
        shutil.rmtree(directory.path, ignore_errors=True)
    return 0
