"""CPU time and memory of process trees, and what the machine itself was doing, from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stack.process import proc

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Written to clear_refs, it makes the kernel forget the peak.
_FORGET_PEAK = "5"


@dataclass(frozen=True)
class MachineTime:
    """Of all cores together, in ticks since boot."""

    total: int
    idle: int
    steal: int
    interrupts: int = 0
    """Hard and soft ones, which no process is charged for."""


@dataclass(frozen=True)
class Usage:
    """CPU time of all parts at one moment."""

    cpu_s: Mapping[str, float]
    """By part."""
    machine: MachineTime
    runner_s: float = 0.0
    """CPU time of this process, which measures."""


def read_machine_time(line: str) -> MachineTime:
    """The first line of /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice.

    A guest's time is already in user's and nice's.
    """
    ticks = [int(field) for field in line.split()[1:9]]
    return MachineTime(sum(ticks), ticks[3] + ticks[4], ticks[7], ticks[5] + ticks[6])


def shares(before: MachineTime, after: MachineTime) -> tuple[float, float]:
    """Busy and stolen, of all cores, between two moments. What was stolen is not busy."""
    total = max(after.total - before.total, 1)
    steal = after.steal - before.steal
    return 1 - (after.idle - before.idle + steal) / total, steal / total


def read_cpu_ticks(stat: str) -> int:
    """utime, stime, and those of the children that were waited for: a backend of PostgreSQL that ended counts too."""
    return sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])


def read_status_kb(status: str, name: str) -> int:
    """One line of /proc/PID/status in KB; 0 when it is not there."""
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:")), 0)


def us_per_order(before: Usage, after: Usage, orders: int) -> dict[str, float]:
    """Part → CPU µs an order; {} if there were no orders."""
    if not orders:
        return {}
    used = {part: seconds - before.cpu_s.get(part, 0.0) for part, seconds in after.cpu_s.items()}
    return {part: round(seconds / orders * 1e6, 1) for part, seconds in used.items()}


def others_share(before: Usage, after: Usage, cores: int, generator_s: float) -> float:
    """Of all cores: the time between two moments in which another process ran. 0 rather than less.

    Interrupts are left out: here they are mostly our own packets on the loopback, 2 % of two cores at 1,000 orders/s.
    """
    window_s = (after.machine.total - before.machine.total) / _TICKS_PER_S / cores
    if window_s <= 0:
        return 0.0
    parts_s = sum(seconds - before.cpu_s.get(part, 0.0) for part, seconds in after.cpu_s.items())
    interrupts_s = (after.machine.interrupts - before.machine.interrupts) / _TICKS_PER_S
    ours_s = parts_s + generator_s + after.runner_s - before.runner_s + interrupts_s
    busy_share, _ = shares(before.machine, after.machine)
    return max(0.0, busy_share - ours_s / (window_s * cores))


def slope_per_h(samples: Iterable[tuple[float, float]]) -> float:
    """Least squares over (seconds, value): how much the value grows in an hour. 0 for less than two samples."""
    points = list(samples)
    count = len(points)
    mean_x, mean_y = (sum(axis) / max(count, 1) for axis in ((x for x, _ in points), (y for _, y in points)))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


# ── I/O below


@dataclass
class Parts:
    """The processes that are watched: name → the pids at the top of its trees. Several pids are reported as one."""

    roots: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, pid: int) -> None:
        self.roots.setdefault(name, []).append(pid)

    def usage(self) -> Usage:
        cpu_s = {name: sum(map(_cpu_s, _trees(pids))) for name, pids in self.roots.items()}
        return Usage(cpu_s, machine_time(), time.process_time())

    def forget_peaks(self) -> None:
        """Let the peaks of memory begin anew. The kernel allows that for processes of one's own user, and to root."""
        for pids in self.roots.values():
            for pid in _trees(pids):
                try:
                    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)
                except OSError:
                    continue  # gone, or another user's: its peak is then that since its start

    def peak_rss_mb(self) -> dict[str, float]:
        return {name: round(sum(map(_peak_kb, _trees(pids))) / 1000, 1) for name, pids in self.roots.items()}

    def rss_mb(self) -> dict[str, float]:
        return {name: round(sum(map(_rss_kb, _trees(pids))) / 1000, 1) for name, pids in self.roots.items()}


def peak_mb(pid: int) -> float:
    """Of one process, without its children; 0 when it is gone."""
    return round(_peak_kb(pid) / 1000, 1)


def machine_time() -> MachineTime:
    return read_machine_time(Path("/proc/stat").read_text().partition("\n")[0])


def _trees(roots: list[int]) -> list[int]:
    return [pid for root in roots for pid in (root, *(child.pid for child in proc.descendants(root)))]


def _cpu_s(pid: int) -> float:
    return read_cpu_ticks(text) / _TICKS_PER_S if (text := _read(pid, "stat")) else 0.0


def _peak_kb(pid: int) -> int:
    status = _read(pid, "status")
    return max(read_status_kb(status, "VmHWM") - read_status_kb(status, "RssShmem"), 0)


def _rss_kb(pid: int) -> int:
    status = _read(pid, "status")
    return read_status_kb(status, "RssAnon") + read_status_kb(status, "RssFile")


def _read(pid: int, name: str) -> str:
    """The content of a file in /proc/PID; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
