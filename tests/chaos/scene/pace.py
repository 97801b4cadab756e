"""Measures throughput (accepted, decided) before a fault, and the time to recover after it."""

import contextlib
import time
from collections.abc import Mapping

from tests.chaos.account import recovery, server_state
from tests.chaos.scene.attempts import Verdict
from tests.chaos.scene.client import Client
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

NAMES = ("accepted", "decided")
_ASK_EVERY_S = 0.25
# Steady means this many seconds at nine tenths of the pace.
_WARM_UP_S = 30.0


class Pace:
    def __init__(self, client: Client, database_url: str) -> None:
        self._client, self._database_url = client, database_url
        self._before_per_s: dict[str, float] = {}
        self._over_s = 0.0
        self._measured: list[dict[str, float | None]] = []

    async def until_steady(self, per_s: float) -> None:
        """Wait until orders are accepted and decided as fast as they are sent, and remember that rate."""
        started = time.time()

        async def is_steady() -> bool:
            return None not in (await self._back_s(dict.fromkeys(NAMES, per_s), started)).values()

        await eventually(is_steady, _WARM_UP_S, _ASK_EVERY_S)
        now = time.time()
        # Capped at the rate of sending: a catch-up burst must not become the target.
        self._before_per_s = {
            name: min(per_s, recovery.per_s(found, now - 3, now - 0.5)) for name, found in (await self._paces()).items()
        }

    def over(self) -> None:
        """Attempt that a fault has ended."""
        self._over_s = time.time()

    @property
    def is_over(self) -> bool:
        """Whether a fault has ended since the last recovery."""
        return self._over_s > 0

    async def recovers(self, within_s: float) -> None:
        """Wait until throughput has recovered, at most `within_s`."""
        assert self._over_s, "when was it over?"
        back: dict[str, float | None] = dict.fromkeys(NAMES)

        async def is_back() -> bool:
            back.update(await self._back_s(self._before_per_s, self._over_s))
            return None not in back.values()

        with contextlib.suppress(AssertionError):  # I7 reports it
            await eventually(is_back, within_s + 5, _ASK_EVERY_S)
        self._measured.append(back)
        self._over_s = 0.0

    @property
    def is_back(self) -> bool:
        """Whether the last recovery succeeded."""
        return bool(self._measured) and None not in self._measured[-1].values()

    @property
    def recover_s(self) -> dict[str, float | None]:
        """The longest recovery so far. None: one failed, or none was measured."""
        return recovery.worst(self._measured, NAMES)

    async def _back_s(self, per_s: Mapping[str, float], since_s: float) -> dict[str, float | None]:
        paces = await self._paces()
        return {name: recovery.back_s(found, per_s[name], since_s, time.time()) for name, found in paces.items()}

    async def _paces(self) -> dict[str, recovery.Histogram]:
        """Accepted orders by the clients' records, decided ones by the ledger."""
        accepted = (it.ended_s for it in self._client.attempts if it.verdict is Verdict.OK)
        async with connected(self._database_url) as connection:
            decided = await server_state.decided_histogram(connection)
        return {"accepted": recovery.histogram(it for it in accepted if it is not None), "decided": decided}
