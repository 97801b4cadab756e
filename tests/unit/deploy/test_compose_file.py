"""docker-compose.yml and what lies in deploy/ agree with the code: ports, graces, names of metrics."""

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import yaml

from deploy.observe import dashboard
from event_relay.settings import RelaySettings
from ingest_api.settings import IngestSettings
from persist_worker.settings import PersistSettings
from pipeline.process import metrics
from pipeline.process.settings import ProcessSettings
from product_api.settings import ProductSettings
from product_consumer.settings import ConsumerSettings
from stack.home.directory import ROOT
from stack.servers import broker_users, redis_users
from tests.compose.composed import IMAGES, compose_directory
from web.problems.kinds import KINDS

SETTINGS: dict[str, type[ProcessSettings]] = {
    "ingest_api": IngestSettings,
    "product_api": ProductSettings,
    "persist_worker": PersistSettings,
    "product_consumer": ConsumerSettings,
    "event_relay": RelaySettings,
}
REQUIRED = {
    "DATABASE_URL": "postgresql://a/b",
    "AMQP_URL": "amqp://a/",
    "REDIS_URL": "redis://a/0",
    "ORDER_ID_KEY": "6b" * 32,
}
CLUSTER = ("docker-compose.yml", "deploy/cluster/docker-compose.yml")
OBSERVE = ROOT / "deploy" / "observe"
PROXY = (ROOT / "deploy" / "haproxy" / "haproxy.cfg").read_text()


@cache
def services(*files: str) -> dict[str, Any]:
    """As Compose understands them, with nothing of this shell's."""
    compose = compose_directory() / "docker-compose"
    named = [word for file in files for word in ("--file", str(ROOT / file))]
    done = subprocess.run(
        [compose, "--project-directory", ROOT, *named, "--profile", "*", "config", "--format", "json"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def seconds(text: str) -> float:
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text).groups()  # type: ignore[union-attr]  # or it fails
    return 60 * int(minutes or 0) + int(rest or 0)


def settings_of(name: str) -> Any:
    return SETTINGS[name].model_validate(REQUIRED)


def test_each_service_is_asked_for_its_health_on_its_own_port() -> None:
    for name in SETTINGS:
        environment = services(CLUSTER[0])[name]["environment"]
        settings = settings_of(name)
        assert int(environment["HEALTH_PORT"]) == getattr(settings, "health_port", settings.port)
        assert environment[f"{name.upper()}_HOST"] == "0.0.0.0"
        assert environment.get(f"{name.upper()}_HEALTH_HOST", "0.0.0.0") == "0.0.0.0"


def test_the_health_listeners_are_published_nowhere() -> None:
    for service in services(CLUSTER[0]).values():
        assert not re.search(r":910\d\b", str(service.get("ports", "")))


def test_the_proxy_asks_the_health_listeners() -> None:
    checked = dict(re.findall(r"server-template \w+ \d+ (\w+):\d+ port (\d+)", PROXY))
    assert checked == {name: str(settings_of(name).health_port) for name in ("ingest_api", "product_api")}


def test_each_service_has_longer_to_stop_than_it_takes_itself() -> None:
    for name in SETTINGS:
        assert seconds(services(CLUSTER[0])[name]["stop_grace_period"]) > settings_of(name).stop_grace_s + 4, name


def test_every_variable_is_a_setting() -> None:
    for name, settings in SETTINGS.items():
        prefix = settings.model_config["env_prefix"]
        fields = settings.model_fields.items()
        known = {str(info.validation_alias or f"{prefix}{field}".upper()) for field, info in fields}
        assert set(services(CLUSTER[0])[name]["environment"]) <= known | {"SECRETS_DIRECTORY", "HEALTH_PORT"}, name


def test_no_file_and_no_environment_has_a_password() -> None:
    for files in ((CLUSTER[0],), CLUSTER):
        for name, service in services(*files).items():
            for variable, value in (service.get("environment") or {}).items():
                assert not re.search(r"PASSWORD$|_KEY$|_COOKIE$|_TOKEN$", variable), name
                assert "://" not in str(value) or "@" not in str(value), name


def test_the_stand_ins_of_the_tests_are_of_the_images_that_are_named() -> None:
    named = {it["image"] for it in services(CLUSTER[0]).values() if not it.get("profiles") and "build" not in it}
    assert named | {services(CLUSTER[0])["ingest_api"]["build"]["args"]["PYTHON_IMAGE"]} == set(IMAGES)


def test_the_proxy_finds_the_services_where_they_listen() -> None:
    servers = dict(re.findall(r"server-template \w+ \d+ (\w+):(\d+)", PROXY))
    assert servers == {name: str(settings_of(name).port) for name in ("ingest_api", "product_api")}


def test_the_proxy_closes_idle_connections_before_a_service_does() -> None:
    from web.serving.connections import KEEP_ALIVE_S

    (waits,) = re.findall(r"timeout http-keep-alive (\d+)s", PROXY)
    (purges,) = re.findall(r"pool-purge-delay (\d+)s", PROXY)
    assert max(int(waits), 2 * int(purges)) < KEEP_ALIVE_S


def test_the_proxy_waits_longer_than_the_longest_answer() -> None:
    (waits,) = re.findall(r"timeout server (\d+)s", PROXY)
    assert int(waits) > 30, "?wait=30"


def test_three_brokers_are_told_to_everybody_and_waited_for() -> None:
    found = services(*CLUSTER)
    brokers = ["rabbitmq", "rabbitmq-2", "rabbitmq-3"]
    assert found["secrets"]["environment"]["BROKERS"].split(",") == brokers
    nodes = (ROOT / "deploy" / "cluster" / "cluster.conf").read_text()
    assert re.findall(r"^cluster_formation\S+\d = rabbit@(\S+)$", nodes, re.MULTILINE) == brokers
    for name in SETTINGS:
        assert set(brokers) <= set(found[name]["depends_on"]), name
    for name in brokers:
        assert found[name]["cap_drop"] == ["ALL"]
        assert found[name]["hostname"] == name
        # None is ready before most are there: one that waited for another's health would wait for ever.
        assert set(found[name]["depends_on"]) == {"secrets"}


# ── what is looked at


def sample_names() -> set[str]:
    """All names that /metrics may have, and those of the process."""
    own = {sample for it in metrics.REGISTRY.collect() for sample in (it.name, *(name.name for name in it.samples))}
    endings = ("", "_total", "_bucket", "_count", "_sum")
    return {name + ending for name in own for ending in endings}


@pytest.mark.parametrize("file", ["rules.yml", "grafana/dashboards/headrace.json"])
def test_only_figures_that_there_are_are_looked_at(file: str) -> None:
    asked = set(re.findall(r"\b(?:headrace|process)_\w+", (OBSERVE / file).read_text()))
    assert len(asked) > 4
    assert asked <= sample_names()


def test_only_problems_that_there_are_are_looked_at() -> None:
    named = re.findall(r'reason=~?"([^"]+)"', (OBSERVE / "rules.yml").read_text())
    assert len(named) == 2
    assert set("|".join(named).split("|")) <= set(KINDS)


def test_the_dashboard_is_what_its_list_says() -> None:
    assert json.loads(dashboard.OUT.read_text()) == dashboard.dashboard()


def test_prometheus_asks_each_part_on_its_port() -> None:
    jobs = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())["scrape_configs"]
    asked = {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in jobs}
    health_ports = {name: int(services(CLUSTER[0])[name]["environment"]["HEALTH_PORT"]) for name in SETTINGS}
    assert {name: asked[name] for name in SETTINGS} == health_ports
    for job in jobs:
        found = [name for name in services(*CLUSTER) if re.fullmatch(rf"{job['job_name']}(-\d)?", name)]
        assert job["dns_sd_configs"][0]["names"] == found


def alerts() -> dict[str, dict[str, Any]]:
    rules = yaml.safe_load((OBSERVE / "rules.yml").read_text())["groups"][0]["rules"]
    return {rule["alert"]: rule for rule in rules}


def test_each_alert_says_what_it_means_and_what_to_do() -> None:
    for name, rule in alerts().items():
        assert set(rule["annotations"]) == {"summary", "fix"}, name
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        named = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|on) \(([^)]*)\)", rule["expr"]))))
        kept |= {"job"} if "absent(" in rule["expr"] else set()
        assert named <= kept, name


def test_p12_an_alert_tells_of_a_part_that_a_service_cannot_use() -> None:
    """Also of those that hold no readiness back, and of one replica of several."""
    rule = alerts()["PartIsAway"]
    assert rule["expr"] == "min by (service, part) (headrace_part_up) == 0"
    assert metrics.PART_UP._labelnames == ("service", "part")
    assert seconds(rule["for"]) == 60, "longer than a restart of a server takes"


def test_an_alert_tells_of_an_exchange_that_a_full_queue_holds_up() -> None:
    """Whatever the load: it compares with what the log has grown by. A restored log, which is shorter, is no growth."""
    grown = "max(headrace_event_log_offset) - max(headrace_event_log_offset offset 5m)"
    assert alerts()["EventExchangeIsBehind"]["expr"] == f"max(headrace_exchange_lag_events) > clamp_min({grown}, 0)"
    assert {metrics.EXCHANGE_LAG._name, metrics.EVENT_LOG_OFFSET._name} == {
        "headrace_exchange_lag_events",
        "headrace_event_log_offset",
    }


@pytest.mark.parametrize(
    ("alert", "gone"),
    [("WorkersAreGone", ["persist_worker", "product_consumer"]), ("ApisAreGone", ["ingest_api", "product_api"])],
)
def test_an_alert_tells_of_processes_that_are_all_gone(alert: str, gone: list[str]) -> None:
    """Their own figures go with them."""
    expression = alerts()[alert]["expr"]
    jobs = {job["job_name"] for job in yaml.safe_load((OBSERVE / "prometheus.yml").read_text())["scrape_configs"]}
    asked = re.findall(r'absent\(up\{job="(\w+)"\} == 1\)', expression)
    assert asked == gone
    assert set(asked) <= jobs


@pytest.mark.parametrize(("server", "users"), [("rabbitmq", broker_users.RIGHTS), ("redis", redis_users.RIGHTS)])
def test_a_server_is_made_anew_when_its_users_change(server: str, users: Mapping[str, Any]) -> None:
    """It reads them at its start. Compose makes a container anew when its definition changes, and only then."""
    digest = hashlib.sha256(repr(sorted(users.items())).encode()).hexdigest()[:12]
    assert services("docker-compose.yml")[server]["labels"] == {"headrace.users": digest}
