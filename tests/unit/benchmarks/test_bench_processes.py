"""What /proc says, read rightly: every figure of cost in the benchmarks rests on it."""

import os

import pytest

from benchmarks.processes import (
    MachineTime,
    Usage,
    others_share,
    read_cpu_ticks,
    read_machine_time,
    read_status_kb,
    shares,
    slope_per_h,
    us_per_order,
)
from benchmarks.report.results import Percentiles, percentiles
from benchmarks.run.machine import cpu_model, short_name

_TICKS = os.sysconf("SC_CLK_TCK")


def test_a_guests_time_is_not_counted_twice() -> None:
    #                                user nice system idle iowait irq softirq steal guest guest_nice
    found = read_machine_time("cpu  100 1 50 800 40 2 3 4 99 1")
    assert found == MachineTime(total=1000, idle=840, steal=4, interrupts=5)


def test_what_was_stolen_is_not_busy() -> None:
    assert shares(MachineTime(0, 0, 0), MachineTime(200, 100, 40)) == pytest.approx((0.3, 0.2))


def test_children_that_ended_count_and_a_name_with_blanks_and_brackets_is_no_obstacle() -> None:
    stat = "42 (postgres: (a) b) S 1 42 42 0 -1 4194560 100 200 0 0 10 20 30 40 20 0 1 0 12345"
    assert read_cpu_ticks(stat) == 100


def test_a_line_that_is_not_there_is_0() -> None:
    status = "Name:\tx\nVmHWM:\t  2048 kB\nRssShmem:\t 48 kB\n"
    assert (read_status_kb(status, "VmHWM"), read_status_kb(status, "RssAnon")) == (2048, 0)


def usage(machine: MachineTime, **cpu_s: float) -> Usage:
    return Usage(cpu_s, machine)


def test_cpu_time_is_shared_among_the_orders() -> None:
    still = MachineTime(0, 0, 0)
    before, after = usage(still, ingest_api=1.0), usage(still, ingest_api=1.5, persist_worker=0.1)
    assert us_per_order(before, after, 10_000) == {"ingest_api": 50.0, "persist_worker": 10.0}
    assert us_per_order(before, after, 0) == {}


def test_what_is_busy_and_nobodys_belongs_to_others() -> None:
    # 10 s of two cores: 15 s busy, of which a part took 8 and the generator 3.
    before = usage(MachineTime(0, 0, 0), ingest_api=1.0)
    after = usage(MachineTime(20 * _TICKS, 5 * _TICKS, 0), ingest_api=9.0)
    assert others_share(before, after, 2, generator_s=3.0) == pytest.approx(4 / 20)
    assert others_share(before, after, 2, generator_s=30.0) == 0.0
    assert others_share(before, before, 2, generator_s=0.0) == 0.0


def test_a_slope_is_that_of_the_line_through_the_samples() -> None:
    assert slope_per_h((second, 60.0 + second / 100) for second in range(100)) == pytest.approx(36.0)
    assert slope_per_h([(1.0, 60.0)]) == slope_per_h([]) == 0.0


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles(list(range(1, 101))) == Percentiles(51, 91, 100, 100, 100)
    assert percentiles([7.0]) == Percentiles(7.0, 7.0, 7.0, 7.0, 7.0)
    assert percentiles([]) == Percentiles()


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        ("AMD EPYC", "amd-epyc"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon"),
        ("AMD Ryzen 7 5800X 8-Core Processor", "amd-ryzen-7-5800x-8"),
        ("", "unknown"),
    ],
)
def test_a_processor_has_a_name_for_files(cpu: str, name: str) -> None:
    assert short_name(cpu) == name


def test_the_processor_is_read_from_what_the_kernel_says() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: AMD  EPYC 7B13\n") == "AMD EPYC 7B13"
    assert cpu_model("processor\t: 0\n") == "unknown"


def test_what_measures_and_what_the_network_interrupts_are_no_others() -> None:
    before = Usage({}, MachineTime(0, 0, 0), runner_s=1.0)
    after = Usage({}, MachineTime(20 * _TICKS, 5 * _TICKS, 0, interrupts=2 * _TICKS), runner_s=2.5)
    assert others_share(before, after, 2, generator_s=10.0) == pytest.approx(1.5 / 20)
