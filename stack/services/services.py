"""Starts and stops the services: accounts, migrations, services gated on /readyz, demo products."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from migrations.privileges import GRANTS, OWNER, provision
from stack.errors import HeadraceError, tail
from stack.home.credentials import Credentials
from stack.home.directory import ROOT, Home
from stack.home.environment import HEALTH_PORTS, order_ids, redis_namespace
from stack.home.key_file import ensure_file, own_token
from stack.home.state import SERVICES, Part
from stack.process.child import Process, Spec, together
from stack.process.events import Events
from stack.process.http import get
from stack.process.identity import Identity, services_identity, wrap
from stack.process.logfile import open_log
from stack.process.ports import LOOPBACK, Ports
from stack.servers.accounts import broker_urls, database_passwords, database_urls, redis_urls
from stack.servers.broker_users import RIGHTS
from stack.servers.leftovers import wait_for_former_services
from stack.services import seeds
from stack.services.user import choose_user, environment_of, on_port

MIGRATION_LOOK_S = 0.5
# Migrations report their progress every five seconds.
MIGRATION_SILENT_S = 60


@dataclass
class Services:
    """As Servers, for the services."""

    home: Home
    events: Events
    ports: Ports
    wanted: dict[str, int]
    credentials: Credentials
    on_change: Callable[[], None]
    former: dict[str, Part] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    operator: dict[str, str] = field(default_factory=dict)
    _running: list[Process] = field(default_factory=list)
    _identity: Identity | None = None

    async def start(self, urls: dict[str, str], external: Collection[str] = ()) -> None:
        """Create the accounts, migrate, start all services at once, and create demo products. Raises HeadraceError.

        `urls`: of postgres, rabbitmq and redis, an administrator's unless the server is `external`. `former`: the parts
        of the previous run, from the state file.
        """
        await wait_for_former_services({name: self.former[name].pid for name in SERVICES if name in self.former})
        # Before the APIs start: they need the key file, and it must hold the stack's own key.
        ensure_file(self.home)
        own_token(self.home)
        databases, brokers, caches = self._accounts(urls, external)
        self.operator = {"database": databases["operator"], "broker": brokers["operator"]}
        environment = await self._choose_user(
            self._environment(), {server: url for server, url in urls.items() if server in external}
        )
        with self.events.step("migrations", "migrations") as step:
            if "postgres" in external:
                step.text = "migrations; services share the account of DATABASE_URL"
            else:
                await provision(urls["postgres"], database_passwords(self.credentials))
            await self._migrate({**environment, "DATABASE_URL": databases[OWNER]})
        await together(
            self._start_service(
                name,
                {
                    **environment,
                    "DATABASE_URL": databases[name],
                    "AMQP_URL": brokers[name],
                    "REDIS_URL": caches.get(name, ""),
                },
            )
            for name in SERVICES
        )
        with self.events.step("seeds", "demo products") as step:
            step.text = await seeds.plant(databases["product_api"])

    async def stop(self) -> None:
        """Stop all at once. Each finishes its work in hand, and none waits for another."""
        await asyncio.gather(*(process.stop() for process in self._running))

    def refresh(self) -> None:
        for process in self._running:
            part = self.parts[process.spec.name]
            part.pid, part.state, part.restarts = process.pid, process.state, process.restarts

    def exit_codes(self) -> dict[str, int | None]:
        return {process.spec.name: process.exit_code for process in self._running}

    def _accounts(
        self, urls: dict[str, str], external: Collection[str]
    ) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """URLs of PostgreSQL, RabbitMQ and Redis, each by service.

        The first two also have the operator's; PostgreSQL also has the schema owner's.
        """
        databases = (
            dict.fromkeys((OWNER, *GRANTS), urls["postgres"])
            if "postgres" in external
            else database_urls(urls["postgres"], self.credentials)
        )
        brokers = (
            dict.fromkeys(RIGHTS, urls["rabbitmq"])
            if "rabbitmq" in external
            else broker_urls(urls["rabbitmq"], self.credentials)
        )
        caches = (
            dict.fromkeys(SERVICES, urls["redis"])
            if "redis" in external
            else redis_urls(urls["redis"], self.credentials, redis_namespace(self.credentials))
        )
        return databases, brokers, caches

    def _environment(self) -> dict[str, str]:
        own = {
            **order_ids(self.credentials),
            # Even if it holds no keys: the APIs watch the file, and obey the first key as soon as it appears.
            "API_KEYS_FILE": str(self.home.api_keys),
            "PYTHONUNBUFFERED": "1",
        }
        for name in SERVICES:
            prefix = name.upper()
            own[f"{prefix}_HOST"] = LOOPBACK
            own[f"{prefix}_PORT"] = str(self.ports.choose_near(name, self.wanted[name]))
        for name, port in HEALTH_PORTS.items():
            own[f"{name.upper()}_HEALTH_HOST"] = LOOPBACK
            own[f"{name.upper()}_HEALTH_PORT"] = str(self.ports.choose(_health_of(name), port))
        defaults = {
            # Here hooks may reach this machine: an operator who adds a hook can reach it anyway.
            "EVENT_RELAY_ALLOW_PRIVATE_ADDRESSES": "true",
            "INGEST_API_PRODUCTS_URL": f"http://localhost:{self.ports.chosen['product_api']}",
            "PRODUCT_API_ORDERS_URL": f"http://localhost:{self.ports.chosen['ingest_api']}",
        }
        return {**defaults, **os.environ, **own}

    async def _choose_user(self, environment: dict[str, str], external: dict[str, str]) -> dict[str, str]:
        """Choose the user of migrations and services. Returns the environment for that user."""
        if identity := services_identity():
            with self.events.step("user", "user of the services") as step:
                choice = await asyncio.to_thread(choose_user, identity, self.home, environment, external)
                self._identity, step.text = choice.identity, choice.text
        return await asyncio.to_thread(environment_of, self._identity, environment)

    async def _migrate(self, environment: dict[str, str]) -> None:
        log = self.home.log("migrations")
        with open_log(log) as output:
            migration = await asyncio.create_subprocess_exec(
                *wrap([sys.executable, "-m", "migrations"], self._identity, signal.SIGKILL),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        code = await self._follow_migration(migration, log)
        if code != 0:
            cause = _last_of(log).removeprefix("migrations: ") or "it was killed before it reported a cause"
            raise HeadraceError(
                f"the migrations ended with exit code {code}", cause, "remove the cause, then: ./headrace up", str(log)
            )

    async def _follow_migration(self, migration: asyncio.subprocess.Process, log: Path) -> int:
        """Show the migrations' progress until they end. Returns the exit code.

        Kills them and raises HeadraceError if they report nothing for MIGRATION_SILENT_S.
        """
        ending = asyncio.create_task(migration.wait())
        told, heard_at = "", time.monotonic()
        while not (await asyncio.wait({ending}, timeout=MIGRATION_LOOK_S))[0]:
            if (line := _last_of(log)) != told:
                told, heard_at = line, time.monotonic()
                self.events.emit("begin", key="migrations", text=line)
            if time.monotonic() - heard_at > MIGRATION_SILENT_S:
                migration.kill()
                raise HeadraceError(
                    f"the migrations reported nothing for {MIGRATION_SILENT_S} s",
                    f"PostgreSQL or the migrations hang; the last report was: {told or 'none'}",
                    "read ./headrace logs postgres, then: ./headrace up",
                    str(log),
                )
        return ending.result()

    async def _start_service(self, name: str, environment: dict[str, str]) -> None:
        port = self.ports.chosen[name]
        health_port = self.ports.chosen.get(_health_of(name), port)
        with self.events.step(name, name) as step:
            spec = service_spec(name, health_port, self.home.log(name), environment, on_port(self._identity, port))
            process = Process(spec, self.on_change)
            self._running.append(process)
            health_url = f"http://{LOOPBACK}:{health_port}" if name in HEALTH_PORTS else ""
            self.parts[name] = Part(f"http://{LOOPBACK}:{port}", health_url=health_url)
            await process.start()
            step.text = f"{name} on {LOOPBACK}:{port}{self.ports.why(name)}"


def _last_of(log: Path) -> str:
    return next(iter(tail(log, 1)), "")


def service_spec(
    name: str, health_port: int, log: Path, environment: dict[str, str], identity: Identity | None
) -> Spec:
    return Spec(
        name=name,
        argv=[sys.executable, "-m", name],
        log=log,
        probe=lambda: _ready(health_port),
        env=environment,
        cwd=ROOT,
        identity=identity,
        start_timeout_s=30,
    )


def _health_of(name: str) -> str:
    """The key of the service's health port in `Ports.chosen`."""
    return f"{name} health"


async def _ready(health_port: int) -> None:
    url = f"http://{LOOPBACK}:{health_port}"
    status, _ = await asyncio.to_thread(get, f"{url}/readyz", 4)
    if status != 200:
        _, body = await asyncio.to_thread(get, f"{url}/health", 4)  # which says why
        raise ConnectionError(f"/readyz answers {status}: {body[:200]}")
