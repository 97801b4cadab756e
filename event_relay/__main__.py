"""python -m event_relay"""

import asyncio
from uuid import uuid4

from database.log_follower import LogFollower
from database.sessions import make_pool
from event_relay.delivery import webhook_client
from event_relay.exchange import EventExchange
from event_relay.hook_store import HookStore
from event_relay.hooks import HOOKS, Hooks
from event_relay.settings import RelaySettings
from pipeline.broker.publisher import Publisher
from pipeline.contract import topology
from pipeline.process import lifecycle
from pipeline.process.health import Health
from web.serving import server
from web.serving.application import health_app

EVENTS, PUBLISHER = "events", "publisher"
# Between two looks at the log, so that many small batches cost few.
_MIN_INTERVAL_S = 0.05


async def main(settings: RelaySettings, stop: asyncio.Event) -> None:
    # RabbitMQ is optional: webhooks do not need it, and perhaps no queue is bound to the exchange.
    health = Health("event_relay", EVENTS, HOOKS, optional=(PUBLISHER,))
    url, timeout_s, holder = settings.database_url, settings.database_timeout_s, str(uuid4())
    # Consumers bind their own queues. If the exchange is deleted, the connection ends, and the next one declares it.
    publisher = Publisher(settings, health, PUBLISHER, topology.declare_events, declares_again=False)
    serving = server.serve_health(health_app(health), settings.host, settings.port)
    async with (
        make_pool(url, "event_relay", settings.database_connections, timeout_s) as pool,
        webhook_client(allow_private=settings.allow_private_addresses) as client,
    ):
        follower = LogFollower(url, health, EVENTS, pool=pool, timeout_s=timeout_s, min_interval_s=_MIN_INTERVAL_S)
        store = HookStore(holder, pool, timeout_s, allow_private=settings.allow_private_addresses)
        hooks = Hooks(url, health, store, follower, client, timeout_s=timeout_s)
        exchange = EventExchange(
            holder, follower, publisher, pool, timeout_s=timeout_s, confirm_timeout_s=settings.confirm_timeout_s
        )
        async with lifecycle.background(
            follower.run(), publisher.run(), hooks.run(), exchange.run(), serving, stop=stop
        ):
            await stop.wait()
            await asyncio.gather(hooks.stop(settings.stop_grace_s), exchange.stop(settings.stop_grace_s))


if __name__ == "__main__":
    lifecycle.run("event_relay", RelaySettings, main)
