"""The benchmarks' virtual environment, .venv-bench. It is not .venv, because a running stack may use that."""

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
    """The Python of .venv-bench. Creates the environment if it is missing, or if the lock file or our Python changed.

    A second process waits for the first. Raises HeadraceError if the packages cannot be installed.
    """
    python, stamp = VENV / "bin" / "python", VENV / "headrace-lock"
    with LOCK.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
        wanted = _stamp_of(held.read())
        if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
            _make(python)
            stamp.write_text(wanted)  # last, so that an incomplete environment has no stamp
    return python


def _stamp_of(lock: bytes) -> str:
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{hashlib.sha256(lock).hexdigest()} {version} {sys.base_prefix}\n"


def _make(python: Path) -> None:
    home = Home.current()
    home.create()
    log = home.log("venv-bench")
    # Standard output may be read by a program, so this goes to standard error.
    print(f"  making {VENV.name} from {LOCK.name} ...", file=sys.stderr, flush=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--require-hashes"]
    with open_log(log) as output:
        for command in ([sys.executable, "-m", "venv", "--clear", str(VENV)], [*pip, "-r", str(LOCK)]):
            if subprocess.run(command, stdout=output, stderr=output, check=False).returncode != 0:
                cause = "no way to the package index, or a full disk"
                raise HeadraceError(f"cannot install the packages of {LOCK.name}", cause, "try again", str(log))
