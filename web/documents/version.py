"""The version of the project, from pyproject.toml."""

import tomllib
from pathlib import Path


def project_version() -> str:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    version: str = tomllib.loads(pyproject.read_text())["project"]["version"]
    return version
