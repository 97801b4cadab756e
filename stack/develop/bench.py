"""`bench`: installs what the benchmarks need, then runs them in their own virtual environment."""

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

    Raises HeadraceError if something is missing and cannot be installed. Only the JSON goes to standard output.
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
    """Check the arguments before minutes are spent on installing. Returns the exit code of a refusal, or 0."""
    return subprocess.run([sys.executable, "-m", "benchmarks", "--plan", *arguments], cwd=ROOT, check=False).returncode


def _ensure_generator(home: Home) -> None:
    """Install Debian's wrk if possible. Without wrk, k6 drives the closed loops, at some 20 times the CPU."""
    if shutil.which(GENERATOR):
        return
    prefix = become_root() if shutil.which("apt-get") else None
    if prefix is not None:
        home.create()
        since = time.monotonic()
        with spinner(f"apt-get install {GENERATOR}"), open_log(home.log("apt")) as output:
            # A session of its own, so that a Ctrl-C here does not stop dpkg half-way.
            install = [*prefix, "sh", str(SCRIPT), GENERATOR]
            subprocess.run(install, stdout=output, stderr=output, cwd="/", start_new_session=True, check=False)
        if shutil.which(GENERATOR):
            step_done(f"installed {GENERATOR}", time.monotonic() - since)
            return
    say(f"  {GENERATOR} cannot be installed here: using k6 instead")


def _run(command: list[str], home: Home) -> int:
    """Run the command to its end, and return its exit code. It gets exactly one SIGINT, so that it can clean up.

    The command has a session of its own, because the terminal would send it each Ctrl-C as well. If this process is
    killed, the kernel sends the SIGINT.
    """
    # A shell starts background jobs with SIGINT ignored, and children inherit that. `env` resets it.
    argv = wrap(["env", "--default-signal=INT", *command], None, signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environment = {**os.environ, "HEADRACE_HOME": str(home.path)}
    child = subprocess.Popen(argv, cwd=ROOT, env=environment, start_new_session=True)
    is_interrupted = False
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            if not is_interrupted:
                child.send_signal(signal.SIGINT)
                is_interrupted = True
