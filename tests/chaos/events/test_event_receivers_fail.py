"""Receivers of events are down, slow, broken or dishonest. Each costs only itself, and gets everything in the end."""

import time
from collections.abc import Callable

import pytest

from tests.chaos.account.signs import Counts, Logged, Sign
from tests.chaos.scene.followed import PROMPT_S, RELAY, Followed, assert_prompt
from tests.chaos.scene.scene import BreakableScene
from tests.chaos.scene.webhook import Webhook
from tests.support.scenes.events.receiver import Behave, answer, saying
from tests.support.services.relay import change_hook, hook_row
from tests.support.services.workers import connected
from tests.support.time.conditions import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400), pytest.mark.deep]

_MISBEHAVES_S = 20
# event_relay doubles the time between attempts: after a minute without success, the next one may be a minute away.
_NEXT_ATTEMPT_S = 70.0
# For a hook whose receiver does nothing wrong.
_NEIGHBOUR_S = 5.0
_LIE = b"HTTP/1.1 200 x\r\ncontent-length: 1000000\r\n\r\nnot so many"


def _refusing(_: Webhook) -> Behave:
    return saying(answer(500, b"no"))


def _hanging_up(_: Webhook) -> Behave:
    return saying(b"", hang_up=True)


def _taking_and_hanging_up(hook: Webhook) -> Behave:
    return hook.taking(b"", hang_up=True)


@pytest.mark.parametrize(
    ("how", "behave", "result"),
    [
        ("answers 500", _refusing, "5xx"),
        ("hangs up at once", _hanging_up, "no_answer"),
        ("takes the events and hangs up", _taking_and_hanging_up, "no_answer"),
    ],
    ids=["500", "hangs up", "takes and hangs up"],
)
@pytest.mark.scenario("24", "a webhook's receiver {how} for 20 s")
async def test_p11_a_receiver_that_fails_gets_everything_later(
    scene: BreakableScene, followed: Followed, how: str, behave: Callable[[Webhook], Behave], result: str
) -> None:
    """P11: nothing passes an event that was not answered 2xx, and another hook does not wait for it."""
    hook, neighbour = await followed.add_hook(), await followed.add_hook()
    followed.within_s = _NEXT_ATTEMPT_S
    async with followed.under_load():
        hook.behaves(behave(hook))
        await scene.goes_on(_MISBEHAVES_S)
        await followed.catches_up(neighbour.reader, within_s=_NEIGHBOUR_S)
        hook.behaves(hook.taking())
        scene.over()
        await scene.recovers()
    await scene.check(*_named(result))


@pytest.mark.scenario("24", "a webhook's receiver down for a minute")
async def test_p11_a_receiver_that_was_down_gets_everything_later(scene: BreakableScene, followed: Followed) -> None:
    """P11: the hook is tried for as long as it takes, and each event waits for its turn."""
    hook, neighbour = await followed.add_hook(), await followed.add_hook()
    followed.within_s = _NEXT_ATTEMPT_S
    async with followed.under_load():
        await hook.down()
        await scene.goes_on(60)
        await followed.catches_up(neighbour.reader, within_s=_NEIGHBOUR_S)
        await hook.up()
        scene.over()
        await scene.recovers()
    await scene.check(*_named("no_answer"))


@pytest.mark.scenario("24", "a webhook's receiver takes 5 s for each answer, for 20 s")
async def test_p11_a_slow_receiver_delays_itself_alone(scene: BreakableScene, followed: Followed) -> None:
    """P11: one request at a time, so its events keep their order; other hooks and readers do not wait."""
    hook, neighbour = await followed.add_hook(batch=1_000), await followed.add_hook()
    async with followed.under_load():
        hook.behaves(hook.taking(after_s=5))
        since_s = time.time()
        await scene.goes_on(_MISBEHAVES_S)
        until_s = time.time() - PROMPT_S
        await followed.catches_up(neighbour.reader, within_s=_NEIGHBOUR_S)
        hook.behaves(hook.taking())
        scene.over()
        await scene.recovers()
    scene.names_fault = False  # it is none: the hook's lag says how far behind the receiver is
    await scene.check()
    for reader in (neighbour.reader, followed.stream, followed.queue):
        assert_prompt(reader, since_s, until_s)


@pytest.mark.scenario("24", "a webhook's receiver lies about the length of its answers")
async def test_p11_a_lie_about_the_length_of_an_answer_changes_nothing(
    scene: BreakableScene, followed: Followed
) -> None:
    """P11: the status counts. Nothing is sent again for a body that does not end."""
    hook = await followed.add_hook()
    async with followed.under_load():
        hook.behaves(hook.taking(_LIE, hang_up=True))
        await scene.goes_on(_MISBEHAVES_S)
        await followed.catches_up(hook.reader)
        hook.behaves(hook.taking())
        scene.over()
        await scene.recovers()
    scene.names_fault = False  # only the hook's attempts show what its receiver answers
    await scene.check()
    assert hook.reader.book.duplicated == 0


@pytest.mark.scenario("24", "a webhook's receiver answers 410, and is resumed after 10 s")
async def test_p11_a_hook_that_its_receiver_ended_goes_on_where_it_was(
    scene: BreakableScene, followed: Followed
) -> None:
    """P11: 410 pauses the hook. It keeps its cursor, so an operator who resumes it loses nothing."""
    hook = await followed.add_hook()
    async with followed.under_load(), connected(scene.database_url) as connection:

        async def is_paused() -> bool:
            return (await hook_row(connection, hook.hook_id))["pause_reason"] is not None

        hook.behaves(saying(answer(410)))
        await eventually(is_paused, 10)
        hook.behaves(hook.taking())
        taken = len(hook.reader.book.seen)
        await scene.goes_on(10)
        assert len(hook.reader.book.seen) == taken, "a paused hook was sent to"
        await change_hook(connection, hook.hook_id, "pause_reason = NULL, retry_at = NULL")
        scene.over()
        await scene.recovers()
    await scene.check(
        Logged(RELAY, "a webhook is paused"), Counts(RELAY, 'headrace_webhook_requests_total{result="4xx"}')
    )


def _named(result: str) -> tuple[Sign, ...]:
    return (
        Logged(RELAY, "a webhook failed"),
        Counts(RELAY, f'headrace_webhook_requests_total{{result="{result}"}}'),
    )
