"""A clock that is an hour off shows in its process's log and metrics, and changes no order."""

import pytest

from tests.chaos.faults import clock
from tests.chaos.scene.scene import FAILING
from tests.support.services.deployment import SERVICES
from tests.support.services.processes import service_process
from tests.support.time.conditions import eventually

_AN_HOUR_S = 3600


@pytest.mark.parametrize("name", SERVICES)
async def test_a_clock_that_is_an_hour_off_is_told(environment: dict[str, str], name: str) -> None:
    stepping = {**environment, clock.VARIABLE: str(-_AN_HOUR_S)}
    async with service_process(name, stepping, program=FAILING) as service:
        assert abs(await service.metric("headrace_clock_skew_seconds")) < 1
        service.process.send_signal(clock.SIGNAL)

        async def is_measured() -> bool:
            return abs(await service.metric("headrace_clock_skew_seconds") + _AN_HOUR_S) < 60

        await eventually(is_measured, 30, 0.2)
        assert "the clock of this process and PostgreSQL's are apart" in service.log()
        assert await service.stop() == 0
