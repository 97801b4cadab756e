"""What wrk and k6 report, read without flattering anybody."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.generators import k6, wrk
from benchmarks.generators.generators import GeneratorFailed, Load, Target, Used
from benchmarks.report.results import Percentiles

WRK = """sent 1005
answered 1000
refused 30
failed 10
first_s 1700000000.500000
last_s 1700000004.500000
p50_us 1500
p90_us 2500
p99_us 9000
max_us 20000
broken 5
first_refusal 503 {"type": "queue full"}
"""


def metrics(**counts: int) -> dict[str, Any]:
    trend = {"med": 1.5, "p(90)": 3.0, "p(99)": 25.25, "max": 80.0}
    return {
        "http_reqs": {"values": {"count": 100}},
        "moments": {"values": {"min": 1_700_000_000_500, "max": 1_700_000_010_500}},
        "from_due": {"values": trend},
        "http_req_duration": {"values": dict.fromkeys(trend, 1.25)},
        **{name: {"values": {"count": count}} for name, count in counts.items()},
    }


def target(tmp_path: Path, *, keyed: bool = False) -> Target:
    return Target("http://127.0.0.1:1", "/api/v1/orders", tmp_path / "bodies", keyed=keyed)


def test_a_request_that_wrk_got_no_answer_to_is_an_error_of_unknown_outcome() -> None:
    sent = wrk.to_sent(wrk.read_summary(WRK), ["id"] * 970, Used(3.0, 12.0))
    assert (sent.errors, sent.unknown) == (30 + 5, 10 + 5)
    assert sent.latency_ms == Percentiles(1.5, 2.5, 9.0, 20.0)
    assert (sent.seconds, sent.share_of_core, sent.cores) == (4.0, 0.75, 1)
    assert sent.first_refusal == '503 {"type": "queue full"}'


def test_no_answer_at_all_is_no_result() -> None:
    summary = wrk.read_summary(WRK) | {"answered": "0"}
    with pytest.raises(GeneratorFailed, match="no answer to any of 1005 requests; 5 broken connections"):
        wrk.to_sent(summary, [], Used())


def test_wrk_stays_for_the_last_answers(tmp_path: Path) -> None:
    command = wrk.command("wrk", target(tmp_path), Load(1.5, 64))
    assert command[command.index("--connections") + 1] == "64"
    assert command[command.index("--duration") + 1] == f"{2 + wrk.GRACE_S}s"


def test_a_request_that_k6_could_not_send_in_time_is_an_error_and_told() -> None:
    sent = k6.to_sent(metrics(refused=3, unknown=1, dropped_iterations=7), ["id"] * 97, Used(5.0))
    assert (sent.errors, sent.unknown) == (10, 1)
    assert sent.first_refusal == "7 were due and no client was free; latency is from sending"
    assert sent.latency_ms == Percentiles(1.25, 1.25, 1.25, 1.25)


def test_k6_tells_cancelled_orders_from_accepted_ones() -> None:
    sent = k6.to_sent(metrics(), ["a", "b", "cancelled a"], Used(5.0))
    assert (sent.ids, list(sent.cancelled)) == (["a", "b"], ["a"])


def test_k6_tells_latency_from_when_a_request_was_due() -> None:
    sent = k6.to_sent(metrics(), ["id"] * 100, Used(5.0))
    assert sent.latency_ms == Percentiles(1.5, 3.0, 25.25, 80.0)
    assert (sent.first_s, sent.last_s, sent.errors) == (1_700_000_000.5, 1_700_000_010.5, 0)


def test_k6_may_use_no_more_than_half_of_the_machine_before_it_measures_itself() -> None:
    assert k6.to_sent(metrics(), [], Used()).cores == k6.CORES
    assert k6.CORES >= 1


def test_k6_that_sent_nothing_is_no_result() -> None:
    with pytest.raises(GeneratorFailed, match="sent nothing"):
        k6.to_sent({}, [], Used())


@pytest.mark.parametrize(("load", "clients"), [(Load(1, rate=10), 50), (Load(1, rate=1_000), 500), (Load(1, 64), 64)])
def test_there_are_clients_for_answers_that_take_half_a_second(load: Load, clients: int) -> None:
    assert k6.clients_for(load) == clients


def test_both_generators_are_told_the_same(tmp_path: Path) -> None:
    load, keyed = Load(3, 16, most_requests=9), replace(target(tmp_path, keyed=True), cancelled=0.05)
    for told in (wrk.environment(keyed, load, tmp_path), k6.environment(keyed, load, tmp_path)):
        assert (told["ORDERS_BODIES"], told["ORDERS_SECONDS"], told["ORDERS_KEYED"], told["ORDERS_MOST"]) == (
            str(tmp_path / "bodies"),
            "3",
            "1",
            "9",
        )
        assert told["ORDERS_CANCELLED"] == "0.05"


def test_a_load_is_named_as_the_results_name_it() -> None:
    assert (Load(1, 256).name, Load(1, rate=1_000).name) == ("closed 256", "open 1000/s")
