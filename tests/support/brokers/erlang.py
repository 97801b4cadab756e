"""Asks a RabbitMQ node in its own language, with erl_call: 10 ms, where rabbitmqctl starts an Erlang VM for 2 s of CPU.

erl_call comes with Erlang, so it is wherever RabbitMQ is.
"""

import asyncio
import json
from typing import Any

_TIMEOUT_S = 15.0


async def ask_node(address: str, cookie: str, expression: str) -> Any:
    """The value of an Erlang expression that rabbit_json can encode: numbers, atoms, text, lists, maps.

    `address`: HOST:PORT of the node's distribution. Raises ConnectionError if the node does not answer, AssertionError
    if its answer is no value.
    """
    # Without the newline, erl_call evaluates nothing and reports nothing.
    program = f"io:put_chars(rabbit_json:encode([begin {expression} end])).\n"
    process = await asyncio.create_subprocess_exec(
        *("erl_call", "-c", cookie, "-address", address, "-fetch_stdout", "-no_result_term", "-e"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            told, _ = await process.communicate(program.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ConnectionError(f"{address} does not answer: {expression}") from None
    if process.returncode:
        raise ConnectionError(f"{address}: {told.decode()}")
    try:
        (value,) = json.loads(told)
    except ValueError:  # erl_call ends with 0 after an error of the node's
        raise AssertionError(f"{address}: {expression}: {told.decode() or 'an error'}") from None
    return value
