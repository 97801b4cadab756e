"""What the scenarios have one by one, mixed by chance. For longer, and to find leaks: ./headrace test soak."""

from collections.abc import Callable

import pytest

from tests.chaos.account.invariants import LEAST_SINGLES
from tests.chaos.faults.random_faults import AROUND, DEADLY
from tests.chaos.scene.scene import BreakableScene
from tests.chaos.soak import go_on

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

_SECONDS = 120
_PER_S = 300.0
_SINGLES_PER_S = 2
# So that LEAST_SINGLES products are cached and sold after the last fault, whatever it was.
_LAST_S = LEAST_SINGLES / _SINGLES_PER_S + 5


@pytest.mark.deep
@pytest.mark.parametrize("mix", [1, 2, 3])
@pytest.mark.scenario("20", "faults at random for two minutes, mix {mix}")
async def test_p1_whatever_breaks_after_what(scene: BreakableScene, mix: int, tell: Callable[[str], None]) -> None:
    """P1 to P4, P7: nothing is lost, doubled or oversold. Each mix draws its own; `--chaos-seed` repeats them."""
    scene.single_orders.per_s = _SINGLES_PER_S
    async with scene.under_load(per_s=_PER_S):
        await go_on(scene, _SECONDS, AROUND + DEADLY, tell)
        # The last fault may have emptied Redis, and what it has forgotten shows nothing of a bust.
        await scene.goes_on(_LAST_S)
    scene.names_fault = False  # which faults they were chance decides, and each is named in a scenario of its own
    await scene.check()
