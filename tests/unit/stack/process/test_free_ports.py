"""The ports that tests give to services."""

import socket
from pathlib import Path

from tests.support.services.processes import free_port


def test_a_port_is_given_once_and_to_no_outgoing_connection() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < first_outgoing


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    following = free_port() + 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", following))
        assert free_port() != following
