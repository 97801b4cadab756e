"""Fixtures of the chaos suite: servers that a scenario may break, a seed, and a row of results for each scenario.

    ./headrace test chaos                                    all scenarios
    ./headrace test chaos -- -k broker --chaos-seed 7        some, with the orders of an earlier run
    ./headrace test chaos -- --chaos-record                  and write docs/reliability.json and the table
    ./headrace test soak --minutes 30                        faults at random, see soak.py

By default, `./headrace test` leaves out scenarios that are marked `deep`.
"""

import os
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from benchmarks.run.machine import cpu_model, revision
from stack.home.directory import Home
from tests.chaos.account import results
from tests.chaos.account.results import Row
from tests.chaos.faults.servers import OwnServers, own_servers
from tests.chaos.scene.followed import RELAY, Followed
from tests.chaos.scene.scene import BreakableScene
from tests.conftest import Servers, migrated_template
from tests.support.faults.faults import Proxy, proxy_to
from tests.support.services.deployment import deployed
from tests.support.services.relay import ALLOWED

_rows = pytest.StashKey[dict[str, Row]]()
"""Test → row."""
_seed = pytest.StashKey[int]()
_left_out = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    given = config.getoption("--chaos-seed")
    config.stash[_seed] = int(given) if given is not None else random.randrange(10**6)
    config.stash[_rows] = {}


def pytest_report_header(config: pytest.Config) -> str:
    return f"chaos: --chaos-seed {config.stash[_seed]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a row for a scenario that failed or was skipped before it recorded one."""
    report = yield
    if not report.passed and item.get_closest_marker("scenario"):
        rows = item.config.stash[_rows]
        row = rows.get(item.nodeid)
        if row is None:
            number, what = _scenario_of(item)
            rows[item.nodeid] = results.unfinished(what, number)
        elif not row.broken:
            rows[item.nodeid] = msgspec.structs.replace(row, broken=["test"])
    return report


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[_left_out] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Record the run, even if it failed. An incomplete run is not recorded."""
    rows = session.config.stash[_rows].values()
    if not session.config.getoption("--chaos-record"):
        return
    missing = results.missing(rows)
    if missing or _left_out in session.config.stash or len(rows) < session.testscollected:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
        what = f"scenarios {', '.join(missing)} did" if missing else "some of it did"
        print(f"\nNOT RECORDED: {what} not run. --chaos-record takes the whole suite: ./headrace test chaos")
        return
    machine = f"{cpu_model(Path('/proc/cpuinfo').read_text())}, {os.cpu_count()} cores"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    # These two files hold earlier runs.
    commit = revision(besides=(results.FILE, results.DOCUMENT))
    results.record(results.make_run(session.config.stash[_seed], at, machine, commit, rows))


def _scenario_of(item: pytest.Item) -> tuple[str, str]:
    """A scenario's number and description, with its parameters filled in."""
    marker = item.get_closest_marker("scenario")
    assert marker is not None
    number, what = marker.args
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return number, what.format(**parameters)


# ── servers of its own


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def killable() -> AsyncIterator[OwnServers]:
    async with own_servers(Home(Home.current().path / f"test-chaos-{os.getpid()}")) as servers:
        yield servers


@pytest.fixture(scope="session")
def servers(killable: OwnServers) -> Servers:
    """Servers of this suite, in place of the session's."""
    return killable.urls


@pytest.fixture(scope="session")
def template_database(servers: Servers) -> Iterator[str]:
    with migrated_template(servers) as name:
        yield name


# ── one scenario


@pytest.fixture
def own_environment() -> dict[str, dict[str, str]]:
    """Service → variables that only it gets. For fixtures that a test names before `scene`."""
    return {}


@pytest_asyncio.fixture(loop_scope="session")
async def api_broker(environment: dict[str, str], own_environment: dict[str, dict[str, str]]) -> AsyncIterator[Proxy]:
    """A proxy between ingest_api and the broker. A test names this fixture before `scene`."""
    async with proxy_to(environment["AMQP_URL"]) as proxy:
        own_environment.setdefault("ingest_api", {})["AMQP_URL"] = proxy.url(environment["AMQP_URL"])
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def scene(
    request: pytest.FixtureRequest,
    killable: OwnServers,
    environment: dict[str, str],
    own_environment: dict[str, dict[str, str]],
    tell: Callable[[str], None],
) -> AsyncIterator[BreakableScene]:
    """The running services, with nothing broken. A test is marked `scenario(number, what)`.

    `what` may name the test's parameters.
    """
    number, what = _scenario_of(request.node)
    seed = request.config.stash[_seed]
    rows = request.config.stash[_rows]
    print(f"--chaos-seed {seed}")

    def note(row: Row) -> None:
        rows[request.node.nodeid] = row
        tell(f"{row.line()}  (--chaos-seed {seed})")

    try:
        async with deployed(environment, own=own_environment) as deployment:
            scene = BreakableScene(
                number,
                what,
                deployment,
                f"{seed} {request.node.name}",
                note,
                environment["DATABASE_URL"],
                environment["AMQP_URL"],
                server_logs=killable.logs,
                servers=killable,
            )
            yield scene
            scene.client.close()
    finally:
        await killable.restore()


@pytest_asyncio.fixture(loop_scope="session")
async def followed(scene: BreakableScene, own_environment: dict[str, dict[str, str]]) -> AsyncIterator[Followed]:
    """The event log of the scene, followed by every kind of reader."""
    own_environment.setdefault(RELAY, {}).update(ALLOWED)
    followed = Followed(scene)
    scene.account_of_readers = followed.account
    try:
        await followed.begin()
        yield followed
    finally:
        await followed.close()
