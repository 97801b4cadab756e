"""Runs a sample of the documents as a program, and reads what it prints."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager


@asynccontextmanager
async def script(text: str, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    """Python that runs `text` with no other variables. Killed when the block ends."""
    command = (sys.executable, "-c", text)
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    """The next line that it prints; "" if it ends. Raises TimeoutError."""
    assert process.stdout is not None
    async with asyncio.timeout(60):
        return (await process.stdout.readline()).decode().rstrip("\n")
