"""Starts and stops the three servers of a stack: private ones, or external ones that the environment names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from stack.errors import HeadraceError
from stack.home.credentials import Credentials
from stack.home.directory import Home
from stack.home.environment import GOOD_URLS, VARIABLES, redis_namespace
from stack.home.state import SERVERS, Part
from stack.process.child import Process, Spec, together
from stack.process.events import Events
from stack.process.ports import LOOPBACK, Ports
from stack.servers import binaries, postgres, rabbitmq, redis_server
from stack.servers.accounts import broker_passwords, redis_passwords
from stack.servers.binaries import TITLES
from stack.servers.leftovers import wait_for_former_server
from stack.servers.place import Place, make_place
from stack.servers.redis_users import definitions

EXTERNAL_TIMEOUT_S = 10
PROBES: dict[str, Callable[[str], Awaitable[None]]] = {
    "postgres": postgres.probe,
    "rabbitmq": rabbitmq.probe,
    "redis": redis_server.probe,
}


@dataclass
class Servers:
    """Starts and stops the servers. `parts`: for the state file. `on_change` is called when they have changed."""

    home: Home
    events: Events
    ports: Ports
    credentials: Credentials
    external: dict[str, str]
    on_change: Callable[[], None]
    broker_use: rabbitmq.Use = "plain"
    parts: dict[str, Part] = field(default_factory=dict)
    management_url: str = ""
    _running: list[tuple[str, Process]] = field(default_factory=list)

    async def start(self) -> None:
        """Start all at once, and wait until all are ready. Raises the first HeadraceError."""
        starts = {
            "postgres": self._start_postgres,
            "rabbitmq": self._start_rabbitmq,
            "redis": self._start_redis,
        }
        await together(
            self._use_external(server) if server in self.external else starts[server]() for server in SERVERS
        )

    async def stop(self) -> None:
        """Stop Redis, then RabbitMQ before its port mapper, then PostgreSQL."""
        for name in ("redis", "rabbitmq", "epmd", "postgres"):
            for _, process in [entry for entry in self._running if entry[0] == name]:
                await process.stop()

    def refresh(self) -> None:
        """Bring `parts` up to date with the processes."""
        for name, process in self._running:
            if part := self.parts.get(name):
                part.pid, part.state, part.restarts = process.pid, process.state, process.restarts

    def process(self, name: str) -> Process:
        """The process of a private server. Raises KeyError."""
        return dict(self._running)[name]

    async def _use_external(self, server: str) -> None:
        url = self.external[server]
        with self.events.step(server, f"{TITLES[server]} of {VARIABLES[server]}") as step:
            try:
                async with asyncio.timeout(EXTERNAL_TIMEOUT_S):
                    await PROBES[server](url)
            except Exception as error:
                raise HeadraceError(
                    f"cannot connect to the {TITLES[server]} that {VARIABLES[server]} names",
                    f"{str(error) or type(error).__name__}; a valid one looks like {GOOD_URLS[server]}",
                    f"correct {VARIABLES[server]}, or `unset {VARIABLES[server]}` for a private instance",
                ) from error
            self.parts[server] = Part(url, state="external")
            if server != "postgres":  # for PostgreSQL, the migrations' step says so
                step.text = f"{TITLES[server]} of {VARIABLES[server]}; services share its account"

    async def _start_postgres(self) -> None:
        with self.events.step("postgres", "PostgreSQL") as step:
            place = await self._place("postgres")
            port = self.ports.choose("postgres", postgres.DEFAULT_PORT)
            password = self.credentials.postgres
            await postgres.prepare(place, password)
            await self._run(place, postgres.spec(place, port, password), postgres.url(port, password))
            await postgres.create_database(postgres.url(port, password, "postgres"))
            step.text = f"PostgreSQL {place.binary.version} on {LOOPBACK}:{port}"

    async def _start_rabbitmq(self) -> None:
        with self.events.step("rabbitmq", "RabbitMQ") as step:
            place = await self._place("rabbitmq")
            ports = rabbitmq.choose_ports(self.ports)
            password = self.credentials.rabbitmq
            await self._run(place, rabbitmq.epmd_spec(place, ports))
            node = rabbitmq.spec(place, ports, password, self.broker_use, broker_passwords(self.credentials))
            await self._run(place, node, rabbitmq.url(ports.amqp, password))
            if self.broker_use != "plain":
                self.management_url = rabbitmq.management_url(ports.management, password)
            step.text = f"RabbitMQ {place.binary.version} on {LOOPBACK}:{ports.amqp}"

    async def _start_redis(self) -> None:
        with self.events.step("redis", "Redis") as step:
            place = await self._place("redis")
            port = self.ports.choose("redis", redis_server.DEFAULT_PORT)
            password = self.credentials.redis
            users = definitions(redis_passwords(self.credentials), redis_namespace(self.credentials))
            await self._run(place, redis_server.spec(place, port, password, users), redis_server.url(port, password))
            step.text = f"Redis {place.binary.version} on {LOOPBACK}:{port}"

    async def _place(self, server: str) -> Place:
        """The server's place, once no process of an earlier run uses it: then the same port is free again."""
        binary = binaries.find(server)
        if binary is None:
            raise HeadraceError(
                f"{TITLES[server]} is not installed",
                "it was installed a moment ago",
                f"apt-get install {binaries.PACKAGES[server]}",
            )
        place = make_place(self.home, server, binary)
        await wait_for_former_server(server, place)
        return place

    async def _run(self, place: Place, spec: Spec, url: str = "") -> None:
        process = Process(spec, self.on_change)
        self._running.append((spec.name, process))
        if url:
            self.parts[spec.name] = Part(url, version=place.binary.version)
        await process.start()
