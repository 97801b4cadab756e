"""python -m tests.chaos.failing SERVICE: the service, with the failpoint that the environment names."""

import os
import runpy
import sys
from typing import Any

from tests.chaos import clock, failpoints


def put(owner: Any, name: str, value: Any) -> None:
    """Replace what is there. Raises AttributeError when it is not: the code has moved on, and this has to follow."""
    getattr(owner, name)
    setattr(owner, name, value)


if __name__ == "__main__":
    _, service = sys.argv
    try:
        failpoints.arm(service, os.environ, put)
    except failpoints.FailpointError as error:
        sys.exit(str(error))
    clock.arm(os.environ, put)
    sys.argv = [service]
    runpy.run_module(service, run_name="__main__", alter_sys=True)
