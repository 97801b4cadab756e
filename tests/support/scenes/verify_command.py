"""Runs `./headrace verify` as a process."""

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from stack.home.directory import ROOT


class CommandResult(NamedTuple):
    code: int | None
    out: str
    err: str


async def verify(environment: Mapping[str, str], *arguments: str) -> CommandResult:
    """Run `verify` as a process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stack", "verify", "--lag", "0", *arguments),
        cwd=ROOT,
        env={**os.environ, "HEADRACE_HOME": "/dev/null/home", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return CommandResult(process.returncode, out.decode(), err.decode())
