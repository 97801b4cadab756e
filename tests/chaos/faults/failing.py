"""python -m tests.chaos.faults.failing SERVICE: runs the service with the failpoint that the environment names."""

import os
import runpy
import sys
from typing import Any

from tests.chaos.faults import clock, failpoints


def put(owner: Any, name: str, value: Any) -> None:
    """Replace an attribute. Raises AttributeError if it does not exist: the code was renamed, so rename it here too."""
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
