"""`pip install .` gives the services and the command all that they read: built without a network, used elsewhere."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.process.version import project_version
from stack.home.directory import ROOT

PACKAGES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
    "wheel"
]["packages"]
SERVICES = ("ingest_api", "persist_worker", "product_consumer", "product_api", "event_relay")

# What each service and the command read from beside their code.
_USE = """
import importlib, pathlib, sys
for name in {services}:
    importlib.import_module(f"{{name}}.__main__")
import ingest_api.documents.documents, product_api.documents, migrations.__main__, stack.servers.install
from stack.home.directory import DEFAULT, IS_CHECKOUT
assert len(ingest_api.documents.documents.documents(202, "", "")) > 30
assert len(product_api.documents.documents("", "")) > 30
assert len(migrations.__main__._revisions()) > 5
assert stack.servers.install.SCRIPT.read_text().startswith("#!/bin/sh")
assert not IS_CHECKOUT and DEFAULT == pathlib.Path.home() / ".headrace"
assert pathlib.Path(ingest_api.__file__).is_relative_to(sys.argv[1])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(directory))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--no-compile", "--quiet", "--target", str(directory))
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return directory


def test_it_has_every_file_of_its_packages_that_git_keeps_and_no_other(wheel: Path) -> None:
    listed = subprocess.run(
        # With those that are not added yet: they are what the next commit has.
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *PACKAGES],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split("\0")
    files = {it.filename for it in zipfile.ZipFile(wheel).infolist() if ".dist-info/" not in it.filename}
    assert files == {it for it in listed if it and (ROOT / it).exists()}
    assert wheel.name.startswith(f"headrace-{project_version()}-py3-none-any")


def test_all_that_the_image_is_made_of_is_in_it() -> None:
    copied = [it.split()[1] for it in (ROOT / "Dockerfile").read_text().splitlines() if it.startswith("COPY ")]
    assert set(PACKAGES) == {it for it in copied if (ROOT / it / "__init__.py").exists()}


def test_the_services_and_the_command_find_what_they_read(installed: Path, tmp_path: Path) -> None:
    run_installed(installed, tmp_path, "-c", _USE.format(services=SERVICES), str(installed))


def test_the_command_says_its_version_and_what_needs_a_clone(installed: Path, tmp_path: Path) -> None:
    assert run_installed(installed, tmp_path, "-m", "stack", "--version") == f"headrace {project_version()}\n"
    assert (installed / "bin" / "headrace").exists()
    for command in ("test", "bench", "docs"):
        said = run_installed(installed, tmp_path, "-m", "stack", command, code=1)
        assert said.startswith(f"error: `{command}` needs a clone of the repository\n")


def run_installed(installed: Path, home: Path, *arguments: str, code: int = 0) -> str:
    """What Python prints with the wheel in its path, and not the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(home)}
    environment.pop("HEADRACE_HOME", None)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout
