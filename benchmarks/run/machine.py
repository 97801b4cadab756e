"""Describes the machine: processor, system, versions, and the time of one fsync."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from benchmarks.generators import k6, wrk
from benchmarks.report.results import Machine, Percentiles, percentiles
from stack.home.directory import ROOT
from stack.servers import binaries

# The libraries that contenders stand on, as far as they are installed.
LIBRARIES = (
    *("aio-pika", "aiormq", "asyncpg", "celery", "fastapi", "faststream", "httptools", "hiredis", "msgspec"),
    *("pydantic", "redis", "sqlalchemy", "starlette", "taskiq", "taskiq-aio-pika", "uvicorn", "uvloop"),
)
_FSYNCS = 200
_PAGE = b"\0" * 8192


def cpu_model(cpuinfo: str) -> str:
    """From /proc/cpuinfo; `unknown` where it does not say."""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else "unknown"


def short_name(cpu: str) -> str:
    """The processor in a file name: lower case, without the words that all have."""
    words = re.sub(r"\((?:r|tm)\)|@.*|\b(?:cpu|processor|core)\b", " ", cpu.lower())
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "unknown"


# ── I/O below


def look(directory: Path) -> Machine:
    """`directory`: on the disk that the servers use."""
    memory_kb = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()),
        cores=os.cpu_count() or 1,
        memory_mb=int(memory_kb[1]) // 1000 if memory_kb else 0,
        kernel=platform.release(),
        system=_system(),
        versions=_versions(),
        fsync_ms=measure_fsync(directory),
    )


def measure_fsync(directory: Path) -> Percentiles:
    """Write 8 KiB at the end of a file and fdatasync it, time after time."""
    took_ms = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            since = time.perf_counter()
            os.write(file.fileno(), _PAGE)
            os.fdatasync(file.fileno())
            took_ms.append((time.perf_counter() - since) * 1000)
    return percentiles(took_ms)


def revision(besides: Sequence[Path] = ()) -> str:
    """The commit; with a "+" if there are changes to it, `besides` these files. Empty outside a repository, or without
    git.
    """
    paths = [f":!{it.relative_to(ROOT)}" for it in besides]
    status = ["status", "--porcelain", "--untracked-files=no", "--", ".", *paths]
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=12", "HEAD"], status)
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + "+" * bool(changes)


def _system() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return platform.system()


def _versions() -> dict[str, str]:
    servers = {binaries.TITLES[name]: found.version for name in binaries.TITLES if (found := binaries.find(name))}
    generators = {"wrk": wrk.version(), "k6": k6.version()}
    libraries = {name: _installed(name) for name in LIBRARIES}
    everything: dict[str, str | None] = {"Python": platform.python_version(), **servers, **generators, **libraries}
    return {name: version for name, version in everything.items() if version}


def _installed(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
