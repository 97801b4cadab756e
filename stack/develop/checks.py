"""`test`: runs the static checks, then pytest on private servers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from typing import IO

from stack.develop.suites import NEEDS, REQUIRED, STATIC, Stage, available_suites, impossible_here, plan
from stack.home.directory import ROOT, Home
from stack.home.state import SERVERS
from stack.process.identity import wrap
from stack.servers.install import ensure_servers
from stack.supervisor.launch import Launched, PrivateServers, launch, read_private_servers
from stack.supervisor.progress import follow
from stack.terminal import say, step_done

# Each stage prints its slowest tests.
_DURATIONS = ("--durations=10", "--durations-min=1")
_NO_TESTS_COLLECTED = 5


def run_suites(home: Home, arguments: list[str]) -> int:
    """Run the checks and suites that `arguments` name. Returns 0 if all passed, 1 if not, 130 if interrupted."""
    run = plan(arguments, available_suites(), impossible_here(), os.environ.get(REQUIRED, "").split())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in run.left_out:
        say(f"left out: {name}, which needs {NEEDS[name]}")
    since = time.monotonic()
    results: dict[str, bool] = {}
    code = 130
    try:
        with ExitStack() as stack:
            # The servers start while the static checks run.
            launched = stack.enter_context(_Servers(home)) if run.needs_servers else None
            results |= _run_static(run.static)
            servers = _wait_for(launched) if launched and run.suites else None
            for stage in run.stages(os.cpu_count() or 1):
                results[stage.name] = _pytest(stage, servers)
            # Print the summary before the servers stop, so that a Ctrl-C during the stop does not lose it.
            code = _summary(results, time.monotonic() - since)
    except KeyboardInterrupt:
        say("\ninterrupted")
    return code


class _Servers:
    """The private servers of one test run. Their directory is removed with them."""

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
    from stack.servers import binaries

    return binaries.find(server) is None


def _remove_leftovers(home: Home) -> None:
    """Remove the directories of test runs that were killed together with their keepers."""
    for run in home.test_runs():
        if not run.is_held():
            run.purge()


def _wait_for(launched: Launched) -> PrivateServers:
    say("servers of this run:")
    follow(launched, until="ready")
    return read_private_servers(launched.home)


def _run_static(names: list[str]) -> dict[str, bool]:
    """Run the static checks at the same time. Print a check's output only if it fails."""
    since = time.monotonic()
    results: dict[str, bool] = {}
    with ExitStack() as stack:
        started = {name: stack.enter_context(_started(name)) for name in names}
        for name, (check, output) in started.items():
            results[name] = check.wait() == 0
            step_done(name, time.monotonic() - since, ok=results[name])
            if not results[name]:
                output.seek(0)
                say(output.read().decode().rstrip())
    return results


@contextmanager
def _started(name: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start one static check. Yields it and its output file; kills it at the end of the block."""
    with TemporaryFile() as output:
        check = subprocess.Popen([sys.executable, *STATIC[name]], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield check, output
        finally:
            check.kill()
            check.wait()


def _pytest(stage: Stage, servers: PrivateServers | None) -> bool:
    since = time.monotonic()
    environment = {**os.environ, **(servers.environment() if servers else {})}
    # pytest writes straight to the terminal, so that it keeps its colours.
    sys.stdout.flush()
    # If this process is killed, pytest gets SIGINT and ends what its tests have started. A shell starts background jobs
    # with SIGINT ignored, and children inherit that. `env` resets it.
    pytest = ["env", "--default-signal=INT", sys.executable, "-m", "pytest"]
    command = wrap([*pytest, *stage.paths, *_DURATIONS, *stage.arguments], None, signal.SIGINT)
    child = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()  # the terminal interrupted pytest too: let it print its results
        raise
    passed = code == 0 or (code == _NO_TESTS_COLLECTED and stage.may_be_empty)
    step_done(f"{stage.name}: pytest {' '.join(stage.suites)}", time.monotonic() - since, ok=passed)
    return passed


def _summary(results: dict[str, bool], seconds: float) -> int:
    failed = [name for name, passed in results.items() if not passed]
    verdict = f"failed: {', '.join(failed)}" if failed else "all passed"
    say(f"headrace test: {verdict} ({', '.join(results)}) in {seconds:.1f} s")
    return 1 if failed else 0


def hold_servers(home: Home) -> int:
    """Run test servers in `home`/servers, and print their addresses as exports, until Ctrl-C."""
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
