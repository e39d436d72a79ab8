"""What a process takes of its machine: the standard process_* series, and memory against its limit.

Read from /proc and the cgroup when a scraper asks; where they cannot be read the series are absent.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")

# cgroup v1 writes "no limit" as the largest number of whole pages.
_NO_LIMIT_BYTES = 1 << 60

# The arbiter and as many workers as WEB_CONCURRENCY allows.
_MAX_PROCESSES = 65

_EACH = "In the gateway of each gunicorn process: the arbiter and its workers, by pid."
_FAMILIES: dict[str, tuple[type[GaugeMetricFamily | CounterMetricFamily], str]] = {
    "process_resident_memory_bytes": (GaugeMetricFamily, "Memory in RAM."),
    "process_virtual_memory_bytes": (GaugeMetricFamily, "Memory that is mapped."),
    "process_cpu_seconds": (CounterMetricFamily, "CPU time, user and system."),
    "process_start_time_seconds": (GaugeMetricFamily, "Unix time of the start."),
    "process_open_fds": (GaugeMetricFamily, "Open file descriptors."),
    "process_max_fds": (GaugeMetricFamily, "File descriptors that may be open."),
}


class _Reader:
    """prometheus_client's reader of /proc, asked for one process after the other.

    Made once: it notes when the machine booted, from which it computes start times. They would change when
    the clock is set, and look like restarts. The gateway imports this before gunicorn forks, for that reason.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._collector = ProcessCollector(pid=lambda: self._pid, registry=None)

    def read(self, pid: int) -> list[Metric]:
        """Return what /proc says of a process; nothing when it has ended."""
        with self._lock:
            self._pid = pid
            return list(self._collector.collect())


_READER = _Reader()


class _Processes(Collector):
    """The process_* series of prometheus_client, of this process or, by pid, of several."""

    def __init__(self, pids: Callable[[], Iterable[int]] | None) -> None:
        self._pids = pids
        self._labelnames = [] if pids is None else ["pid"]

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples."""
        return self._families().values()

    def collect(self) -> Iterator[Metric]:
        """Yield what can be read; of a process that ended meanwhile nothing."""
        families = self._families()
        for pid in [os.getpid()] if self._pids is None else self._pids():
            label = [str(pid)] if self._labelnames else []
            for metric in _READER.read(pid):
                for sample in metric.samples:
                    families[metric.name].add_metric(label, sample.value)
        yield from (family for family in families.values() if family.samples)

    def _families(self) -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
        return {
            name: family(name, f"{text} {_EACH}", labels=self._labelnames)
            for name, (family, text) in _FAMILIES.items()
        }


class _Memory(Collector):
    """Memory of the container against its limit, as the kernel counts it before it kills."""

    def __init__(self, proc: Path, cgroups: Path) -> None:
        self._proc = proc
        self._cgroups = cgroups

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples."""
        return self._families()

    def collect(self) -> Iterator[Metric]:
        """Yield use and limit; nothing where there is no limit."""
        found = container_memory(self._proc, self._cgroups)
        if found is not None:
            for family, value in zip(self._families(), found, strict=True):
                family.add_metric([], value)
                yield family

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "analytics_memory_used_bytes",
                "Memory of the container less file cache that can be dropped; absent without a limit.",
                labels=[],
            ),
            GaugeMetricFamily(
                "analytics_memory_limit_bytes",
                "Memory at which the kernel kills in the container; absent without a limit.",
                labels=[],
            ),
        )


def add_process_metrics(registry: CollectorRegistry, pids: Callable[[], Iterable[int]] | None = None) -> None:
    """Export this process, or these, and the container's memory."""
    registry.register(_Processes(pids))
    registry.register(_Memory(_PROC, _CGROUPS))


def arbiter_and_workers() -> list[int]:
    """Return the processes of the gunicorn that this worker belongs to: its parent and its siblings."""
    arbiter = os.getppid()
    found = [arbiter]
    for entry in _PROC.glob("[0-9]*"):
        try:
            # After the command's name, which may hold anything: the state, then the parent.
            parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue  # it has just ended
        if int(parent) == arbiter:
            found.append(int(entry.name))
    return sorted(found)[:_MAX_PROCESSES]


def container_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> tuple[int, int] | None:
    """Return bytes in use and at most, by cgroup v2 or v1; None without a limit or where neither is there.

    In use is what a kubelet counts too: all memory less the file cache that nobody has used lately.
    """
    try:
        lines = (proc / "self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names = ("memory.current", "memory.max", "inactive_file")
            found = _read(cgroups, path, *names)
        elif "memory" in controllers.split(","):
            names = ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file")
            found = _read(cgroups / "memory", path, *names)
        else:
            continue
        if found is not None:
            return found
    return None


def _read(mount: Path, path: str, usage: str, limit: str, droppable: str) -> tuple[int, int] | None:
    """Read a group's files: below its own path on a host, at the mount's root within a container."""
    for folder in (mount / path.lstrip("/"), mount):
        try:
            used, most = (int((folder / name).read_text()) for name in (usage, limit))
            cached = re.search(rf"^{droppable} ([0-9]+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):  # no such file, or `max`
            continue
        if most < _NO_LIMIT_BYTES:
            return max(0, used - int(cached[1] if cached else 0)), most
    return None
