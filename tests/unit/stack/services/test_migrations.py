"""`up` and the migrations: shown while they work, and not ended for taking long."""

import asyncio
from pathlib import Path

import pytest

from stack.errors import HeadraceError
from stack.home.credentials import load_or_create
from stack.home.directory import Home
from stack.process.events import Events
from stack.process.ports import Ports
from stack.services import services
from stack.services.services import Services


class Told(Events):
    """What a terminal would show."""

    def __init__(self) -> None:
        self.texts: list[object] = []

    def emit(self, event: str, **fields: object) -> None:
        self.texts.append(fields.get("text"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "migrations.log"


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setattr(services, "MIGRATION_LOOK_S", 0.02)
    home = Home(tmp_path / "home")
    home.create()
    return Services(home, Told(), Ports(), {}, load_or_create(home.credentials), lambda: None)


async def _migrating(log: Path, script: str) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec("sh", "-c", script, stdout=output, stderr=output)


async def test_a_migration_that_says_what_it_does_is_waited_for_and_shown(
    stack: Services, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "MIGRATION_SILENT_S", 1.0)
    lines = "for n in 1 2 3 4 5 6 7 8; do echo migrations: 0003 runs for $n s; sleep 0.3; done; exit 3"
    assert await stack._follow_migration(await _migrating(log, lines), log) == 3
    assert isinstance(stack.events, Told)
    assert "migrations: 0003 runs for 8 s" in stack.events.texts


async def test_a_migration_that_says_nothing_is_ended_and_what_it_said_last_is_told(
    stack: Services, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "MIGRATION_SILENT_S", 1.0)
    migration = await _migrating(log, "echo migrations: 0003 begins; exec sleep 60")
    with pytest.raises(HeadraceError) as raised:
        await stack._follow_migration(migration, log)
    assert "0003 begins" in " ".join(raised.value.lines())
    assert await migration.wait() == -9
