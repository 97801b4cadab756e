"""Random faults for as long as you say: ./headrace test soak --minutes 30. Not a test_ file, so it runs by name alone.

In the first two thirds only servers break, so that the services live long enough to leak. In the last third the
services die too. Below 22 minutes a leak cannot be told from a heap that finds its size, so the run reports that.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from tests.chaos.account.leaks import LEAST_MIN, MemorySample, leaks, open_files
from tests.chaos.faults.random_faults import AROUND, DEADLY, Fault
from tests.chaos.scene.scene import BreakableScene
from tests.chaos.scene.watch import resident_mb
from tests.support.brokers.broker import running_task
from tests.support.services.deployment import SERVICES
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(0)]

_PER_S = 300.0
# Each is one more product for the audits, which run twice a second.
_SINGLES_PER_S = 2
_LIVING_SHARE = 2 / 3
# The share of a process's life in which its heap finds its size.
_SETTLE_SHARE = 0.3
_LOOK_EVERY_S = 5.0
# Pools open and close connections.
_MORE_FILES = 8


@pytest.mark.scenario("soak", "faults at random")
async def test_nothing_is_lost_and_nothing_swells_however_long_it_goes_on(
    scene: BreakableScene, request: pytest.FixtureRequest, tell: Callable[[str], None]
) -> None:
    """P1 to P4, P7 and P8 hold, and no process leaks."""
    seconds = request.config.getoption("--minutes") * 60
    living_s = _LIVING_SHARE * seconds
    scene.single_orders.per_s = _SINGLES_PER_S
    looks: dict[str, list[MemorySample]] = {name: [] for name in SERVICES}
    async with scene.under_load(per_s=_PER_S):
        before = await files_at_rest(scene)
        async with running_task(look(scene, looks, _SETTLE_SHARE * living_s)):
            await go_on(scene, living_s, AROUND, tell)
        if (1 - _SETTLE_SHARE) * living_s / 60 > LEAST_MIN:
            assert leaks(looks) == []
            tell(f"no leak: {', '.join(f'{name} {it[0].mb:.0f} to {it[-1].mb:.0f} MB' for name, it in looks.items())}")
        else:
            tell("too short to tell a leak; that takes --minutes 22")
        await check_files(scene, before)
        await go_on(scene, seconds - living_s, AROUND + DEADLY, tell)
    scene.names_fault = False  # the faults are random, and each is named in a scenario of its own
    await scene.check()


async def go_on(scene: BreakableScene, seconds: float, faults: Sequence[Fault], tell: Callable[[str], None]) -> None:
    """Cause one fault after the other, each after the recovery from the one before."""
    started = time.monotonic()
    while (now := time.monotonic() - started) < seconds:
        fault = scene.rng.choice(faults)
        tell(f"{now:6.0f} s  {fault.__name__}")
        await fault(scene)
        if not scene.pace.is_over:
            scene.over()
        await scene.recovers()
        assert scene.pace.is_back, f"after {fault.__name__}"


async def look(scene: BreakableScene, looks: dict[str, list[MemorySample]], after_s: float) -> None:
    """Sample the memory of each service until cancelled."""
    started = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)  # a pace, and nothing that anybody waits for
        if (now := time.monotonic()) > started + after_s:
            for name, service in scene.deployment.services.items():
                looks[name].append(MemorySample(now, resident_mb(service.process.pid)))


async def files_at_rest(scene: BreakableScene) -> dict[str, int]:
    """Open files of each service, without load or clients, once the number is stable."""
    counts: list[dict[str, int]] = [{}]

    async def are_steady() -> bool:
        counts.append({name: open_files(scene.deployment.services[name].process.pid) for name in SERVICES})
        return counts[-1] == counts[-2]

    async with scene.nobody_orders():
        scene.client.close()
        await eventually(are_steady, 20, 1.0)
    return counts[-1]


async def check_files(scene: BreakableScene, before: dict[str, int]) -> None:
    async def are_no_more() -> bool:
        return all(count <= before[name] + _MORE_FILES for name, count in (await files_at_rest(scene)).items())

    await eventually(are_no_more, 60, 0.5)
