"""deploy/kubernetes: the schema is there before what needs it."""

import subprocess
from pathlib import Path

import pytest

from tests.support.data.kustomized import Objects, containers, of_kind, rendered
from tests.support.data.kustomized_services import services
from tests.support.faults.executables import executable


def test_the_migration_removes_itself_for_the_next_one(objects: Objects) -> None:
    (job,) = of_kind(objects, "Job").values()
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert [it["args"] for it in containers(job["spec"]["template"])] == [["migrations"]]


def test_no_service_starts_before_it(objects: Objects) -> None:
    for name, spec, _ in services(objects):
        (waiting,) = spec["initContainers"]
        assert waiting["args"] == ["migrations", "--wait"]
        assert ("command" in waiting) == (name == "ingest-api")


@pytest.mark.parametrize(("python", "code"), [("exit 0", 0), ("exit 1", 1), ("exit 78", 1), ("exec sleep 60", 0)])
def test_an_ingest_api_starts_although_the_database_is_away(tmp_path: Path, python: str, code: int) -> None:
    """And not if the wait ends with an error: another's schema, or settings that are wrong."""
    (waiting,) = of_kind(rendered("base"), "Deployment")["ingest-api"]["spec"]["template"]["spec"]["initContainers"]
    command = [word.replace("timeout 30 ", "timeout 0.2 ") for word in waiting["command"]]
    assert command != waiting["command"]
    executable(tmp_path / "python", f'[ "$*" = "-m migrations --wait" ] || exit 99\n{python}')
    done = subprocess.run([*command, *waiting["args"]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == code
