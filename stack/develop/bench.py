"""`bench`: gets what the benchmarks need, then runs them in the virtual environment that is theirs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

from stack.develop.bench_venv import ensure_venv
from stack.home.directory import ROOT, Home
from stack.process.identity import wrap
from stack.process.logfile import open_log
from stack.servers.install import SCRIPT, become_root, ensure_servers, missing_servers
from stack.terminal import say, spinner, step_done

GENERATOR = "wrk"


def bench(home: Home, *, quick: bool, as_json: bool, only: str | None, document: bool = False) -> int:
    """Returns the exit code of the benchmarks: 0 measured, 1 a run was void, 2 a wrong name, 130 interrupted.

    Raises HeadraceError when something is missing and cannot be installed. Standard output is for the JSON alone.
    """
    flags = {"--quick": quick, "--json": as_json, "--document": document}
    arguments = [*(flag for flag, is_set in flags.items() if is_set), *(["--only", only] if only else [])]
    if only and (code := _is_refused(arguments)):
        return code
    with contextlib.redirect_stdout(sys.stderr):
        ensure_servers(home, missing_servers())
        _ensure_generator(home)
        python = ensure_venv()
    return _run([str(python), "-m", "benchmarks", *arguments], home)


def _is_refused(arguments: list[str]) -> int:
    """What will be refused is refused before minutes are spent: the exit code, or 0."""
    return subprocess.run([sys.executable, "-m", "benchmarks", "--plan", *arguments], cwd=ROOT, check=False).returncode


def _ensure_generator(home: Home) -> None:
    """Debian's wrk if it can be had. Without it, k6 drives the closed loops, at some 20 times the CPU."""
    if shutil.which(GENERATOR):
        return
    prefix = become_root() if shutil.which("apt-get") else None
    if prefix is not None:
        home.create()
        since = time.monotonic()
        with spinner(f"apt-get install {GENERATOR}"), open_log(home.log("apt")) as output:
            # In a session of its own: a Ctrl-C here must not stop dpkg half-way.
            install = [*prefix, "sh", str(SCRIPT), GENERATOR]
            subprocess.run(install, stdout=output, stderr=output, cwd="/", start_new_session=True, check=False)
        if shutil.which(GENERATOR):
            step_done(f"installed {GENERATOR}", time.monotonic() - since)
            return
    say(f"  {GENERATOR} cannot be installed here: k6 is used in its place")


def _run(command: list[str], home: Home) -> int:
    """Run to the end. It is told once of a Ctrl-C, whoever sent it and however often, so that it can clean up.

    In a session of its own for that: the terminal would tell it too. When we are killed, the kernel tells it.
    """
    # A shell starts background jobs with SIGINT ignored, which children inherit: hence env.
    argv = wrap(["env", "--default-signal=INT", *command], None, signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environment = {**os.environ, "HEADRACE_HOME": str(home.path)}
    child = subprocess.Popen(argv, cwd=ROOT, env=environment, start_new_session=True)
    told = False
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            if not told:
                child.send_signal(signal.SIGINT)
                told = True
