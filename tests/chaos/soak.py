"""Faults at random for as long as it is told to: ./headrace test soak --minutes 30. Not a test_ file: by name alone.

In the first half what breaks is around the services, so that they live long enough to leak. In the second they die too.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest

from tests.chaos.leaks import Look, allowed_mb, growth_mb, open_files
from tests.chaos.random_faults import AROUND, DEADLY, Fault
from tests.chaos.scene import BreakableScene
from tests.chaos.signs import Says
from tests.chaos.watch import resident_mb
from tests.conditions import eventually
from tests.deployment import SERVICES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(0)]

_PER_S = 300.0
# Of the first half, for a heap to find its size.
_SETTLE_SHARE = 0.3
# Connections of pools come and go.
_MORE_FILES = 8

Looks = dict[str, list[Look]]


@pytest.mark.scenario("soak", "faults at random")
async def test_nothing_is_lost_and_nothing_swells_however_long_it_goes_on(
    scene: BreakableScene, request: pytest.FixtureRequest, tell: Callable[[str], None]
) -> None:
    """P1 to P4, P7, P8, and no process that holds more and more."""
    half_s = request.config.getoption("--minutes") * 30
    looks: Looks = defaultdict(list)
    async with scene.under_load(per_s=_PER_S):
        before = await files_at_rest(scene)
        await go_on(scene, half_s, AROUND, tell, looks)
        check_memory(looks)
        await check_files(scene, before)
        await go_on(scene, half_s, AROUND + DEADLY, tell, defaultdict(list))
    await scene.check(Says("persist_worker", '"level":"error"'))


async def go_on(
    scene: BreakableScene, seconds: float, faults: Sequence[Fault], tell: Callable[[str], None], looks: Looks
) -> None:
    """One fault after the other, each after throughput is back from the one before."""
    started = time.monotonic()
    while (now := time.monotonic() - started) < seconds:
        fault = scene.rng.choice(faults)
        tell(f"{now:6.0f} s  {fault.__name__}")
        await fault(scene)
        scene.over()
        await scene.recovers()
        assert scene.has_recovered, f"after {fault.__name__}"
        if now > _SETTLE_SHARE * seconds:
            look(scene, looks)


def look(scene: BreakableScene, looks: Looks) -> None:
    for name, service in scene.deployment.services.items():
        looks[name].append(Look(time.monotonic(), resident_mb(service.process.pid)))


def check_memory(looks: Looks) -> None:
    grown = {name: (growth_mb(of_one), allowed_mb(of_one)) for name, of_one in looks.items()}
    print({name: f"{mb:.1f} MB" for name, (mb, _) in grown.items()})
    assert {name: mb for name, (mb, most) in grown.items() if mb > most} == {}


async def files_at_rest(scene: BreakableScene) -> dict[str, int]:
    """Open files of each service when nothing is under way and no client is there."""
    async with scene.nobody_orders():
        scene.client.close()
        return {name: open_files(scene.deployment.services[name].process.pid) for name in SERVICES}


async def check_files(scene: BreakableScene, before: dict[str, int]) -> None:
    async def are_no_more() -> bool:
        return all(count <= before[name] + _MORE_FILES for name, count in (await files_at_rest(scene)).items())

    await eventually(are_no_more, 20, 0.5)
