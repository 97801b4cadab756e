"""Services are told to go, are frozen, or do not know what time it is."""

import signal

import pytest

from tests.chaos.account.signs import Counts, Logged, Restarts
from tests.chaos.faults import clock
from tests.chaos.scene.attempts import Verdict, some_orders
from tests.chaos.scene.client import Client, ordering
from tests.chaos.scene.scene import FAILING, Scene
from tests.support.services.deployment import SERVICES
from tests.support.services.processes import service_process
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

# One service every so often.
_EVERY_S = 5
# After its batch was given to another: 40 s in all, or nearly.
_FROZEN_ON_S = 10
_MOST_BACK = "SELECT extract(epoch FROM max(persisted_at - accepted_at))::float8 FROM orders"
_MOST_AHEAD = "SELECT extract(epoch FROM max(accepted_at - persisted_at))::float8 FROM orders"
_AN_HOUR_S = 3600
_PER_S_AHEAD = 100.0


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.deep)])
@pytest.mark.scenario("15", "SIGTERM to one service every 5 s, {rounds} × each")
async def test_p9_services_are_replaced_one_after_the_other_under_load(scene: Scene, rounds: int) -> None:
    """P9: each finishes what it has and exits 0. P1, P2: nothing is lost between the old one and the new one."""
    async with scene.under_load():
        for name in SERVICES * rounds:
            assert await scene.deployment.stop(name) == 0, scene.deployment.services[name].log()[-2000:]
            scene.over()
            await scene.deployment.start(name)
            await scene.goes_on(_EVERY_S)
            await scene.recovers()
    await scene.check(
        *(Logged(name, '"event":"stopped"') for name in SERVICES),
        *(Restarts(name) for name in SERVICES),
    )


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "failpoint", "queue"),
    [
        ("persist_worker", "persist.after_commit_before_forward", "orders.accepted"),
        ("product_consumer", "stock.after_commit_before_bust", "orders.created"),
    ],
    ids=["persist_worker", "product_consumer"],
)
@pytest.mark.scenario("17", "{name} frozen until its batch was given to another, then thawed")
async def test_p2_a_frozen_worker_goes_on_with_what_another_has_done(
    scene: Scene, name: str, failpoint: str, queue: str
) -> None:
    """P2, P3, P7: it forwards, or busts, what is old by then, and must not acknowledge what is not its own any more."""
    redeliveries = f'headrace_redeliveries_total{{queue="{queue}"}}'

    async def is_past(before: float) -> bool:
        return await other.metric(redeliveries) > before

    async with scene.more(**{name: 1}) as (other,), scene.under_load():
        await scene.deployment.stop(name)
        # It freezes at its first batch.
        await scene.fails_at(name, f"{failpoint}:stop", ready=None)
        frozen = scene.deployment.services[name]
        await eventually(lambda: frozen.is_stopped, 30)
        # The other has been given by now what the one that stopped had prefetched; what comes again later is the frozen
        # one's, whose silence the broker notices after two to three heartbeats of 10 s.
        before = await other.metric(redeliveries)
        await eventually(lambda: is_past(before), 60)
        await scene.goes_on(_FROZEN_ON_S)
        frozen.process.send_signal(signal.SIGCONT)
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged(name, "broker connection lost"),
        Counts(name, f'headrace_stale_batches_total{{queue="{queue}"}}'),
    )


@pytest.mark.deep
@pytest.mark.scenario("18", "clock of ingest_api stepped back an hour")
async def test_p2_the_clock_of_ingest_api_is_set_back(scene: Scene) -> None:
    """P2, P6: no id comes twice, none goes unknown, and what was accepted "an hour ago" is decided now."""
    await scene.deployment.stop("ingest_api")
    await scene.deployment.start("ingest_api", program=FAILING, **{clock.VARIABLE: str(-_AN_HOUR_S)})
    async with scene.under_load() as client:
        scene.deployment.services["ingest_api"].process.send_signal(clock.SIGNAL)
        scene.over()
        await scene.recovers()
        assert await scene.metric("ingest_api", "headrace_clock_steps_total") == 1
        last = next(it for it in reversed(client.attempts) if it.verdict is Verdict.OK)
        assert (await scene.deployment.get_order(last.told))["id"] == last.told
        await scene.kill("ingest_api")
        await scene.recovers()
    # Counted by the process that was killed since: what it told is in its log alone.
    await scene.check(Logged("ingest_api", "the clock was set back"), Restarts("ingest_api"))
    async with connected(scene.database_url) as connection:
        assert await connection.fetchval(_MOST_BACK) > 0.9 * _AN_HOUR_S


@pytest.mark.deep
@pytest.mark.scenario("18", "two ingest_api whose clocks are an hour apart")
async def test_p2_two_ingest_apis_do_not_agree_what_time_it_is(scene: Scene) -> None:
    """P1, P2, P4, P6: what is accepted an hour ahead of PostgreSQL's time is stored and decided like the rest."""
    environment = {**scene.deployment.environment, clock.VARIABLE: str(_AN_HOUR_S)}
    async with service_process("ingest_api", environment, program=FAILING) as ahead:
        ahead.process.send_signal(clock.SIGNAL)
        # Once a second or in 5 s: it may have compared just before.
        await eventually(lambda: "PostgreSQL's are apart" in ahead.log(), 20)
        assert await ahead.metric("headrace_clock_skew_seconds") > 0.9 * _AN_HOUR_S
        others = Client(ahead.url)
        async with scene.under_load():
            orders = some_orders(scene.random("orders of the other"), scene.products, keyed=0.1)
            async with ordering(others, orders, _PER_S_AHEAD):
                await scene.goes_on(10)
                scene.over()
                await scene.recovers()
            last = next(it for it in reversed(others.attempts) if it.verdict is Verdict.OK)
            assert (await scene.deployment.get_order(last.told))["id"] == last.told, "the one answers for the other's"
        others.close()
        assert await ahead.stop() == 0
    scene.client.attempts += others.attempts
    scene.names_fault = False  # it was named before the load began
    await scene.check()
    async with connected(scene.database_url) as connection:
        assert await connection.fetchval(_MOST_AHEAD) > 0.9 * _AN_HOUR_S
        # Ids carry the time of acceptance: a page goes on where the one before ended, whichever clock made it.
        assert await connection.fetchval("SELECT count(*) FROM orders WHERE accepted_at > now()") > 0
