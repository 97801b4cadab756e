"""The version of the project: from pyproject.toml beside the code, or, where pip installed it, from what pip noted."""

import tomllib
from importlib import metadata
from pathlib import Path

NAME = "headrace"
_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def project_version() -> str:
    """The version, as `0.2.0`."""
    try:
        version: str = tomllib.loads(_PYPROJECT.read_text())["project"]["version"]
    except FileNotFoundError:
        return metadata.version(NAME)
    return version
