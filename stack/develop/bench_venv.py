"""The virtual environment of the benchmarks, .venv-bench: apart from .venv, which a running stack may live on."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

from stack.errors import HeadraceError
from stack.home.directory import ROOT, Home
from stack.process.logfile import open_log

LOCK = ROOT / "requirements-bench.lock"
VENV = ROOT / ".venv-bench"


def ensure_venv() -> Path:
    """The Python of .venv-bench, which is made when it is missing, and anew when the lock file or our Python changes.

    A second process waits for the first. Raises HeadraceError when the packages cannot be installed.
    """
    python, stamp = VENV / "bin" / "python", VENV / "headrace-lock"
    with LOCK.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
        wanted = _stamp_of(held.read())
        if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
            _make(python)
            stamp.write_text(wanted)  # last: one that is not complete has none
    return python


def _stamp_of(lock: bytes) -> str:
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{hashlib.sha256(lock).hexdigest()} {version} {sys.base_prefix}\n"


def _make(python: Path) -> None:
    home = Home.current()
    home.create()
    log = home.log("venv-bench")
    # Not on standard output, which a program may read.
    print(f"  making {VENV.name} from {LOCK.name} ...", file=sys.stderr, flush=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes"]
    with open_log(log) as output:
        for command in ([sys.executable, "-m", "venv", "--clear", str(VENV)], [*pip, "-r", str(LOCK)]):
            if subprocess.run(command, stdout=output, stderr=output, check=False).returncode != 0:
                cause = "no way to the package index, or a full disk"
                raise HeadraceError(f"cannot install the packages of {LOCK.name}", cause, "try again", str(log))
