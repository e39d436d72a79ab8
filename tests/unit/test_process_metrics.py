"""What a process takes of its machine, read from the kernel that runs the test and from made-up cgroups."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from shared.metrics import ExportMetrics, IngestorMetrics, RollupMetrics
from shared.process_metrics import add_process_metrics, arbiter_and_workers, container_memory

NAMES = [
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
]


@pytest.mark.parametrize("metrics", [IngestorMetrics, RollupMetrics, ExportMetrics])
def test_each_worker_exports_the_standard_series(metrics: Callable[[CollectorRegistry], object]) -> None:
    registry = CollectorRegistry()
    metrics(registry)
    values = {name: registry.get_sample_value(name) for name in NAMES}
    assert all(value is not None and value > 0 for value in values.values()), values
    started = registry.get_sample_value("process_start_time_seconds") or 0
    assert time.time() - 24 * 3600 < started <= time.time() + 1


def test_open_descriptors_are_counted() -> None:
    registry = CollectorRegistry()
    add_process_metrics(registry)
    before = registry.get_sample_value("process_open_fds") or 0
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
    try:
        assert registry.get_sample_value("process_open_fds") == before + 50
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_several_processes_are_distinguished_by_pid_and_one_that_ended_is_left_out() -> None:
    program = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"  # it has begun, and so has memory
        registry = CollectorRegistry()
        add_process_metrics(registry, lambda: [os.getpid(), child.pid])
        for pid in (os.getpid(), child.pid):
            assert registry.get_sample_value("process_resident_memory_bytes", {"pid": str(pid)})
        child.communicate(b"\n")
    assert f'pid="{child.pid}"'.encode() not in generate_latest(registry)
    assert f'pid="{os.getpid()}"'.encode() in generate_latest(registry)


def test_the_arbiter_and_its_workers_are_this_processes_parent_and_siblings() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    sibling = "from shared.process_metrics import *; print(os.getppid(), os.getpid(), arbiter_and_workers())"
    output = subprocess.run(
        [sys.executable, "-c", code, sibling], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    parent, own, found = output.split(maxsplit=2)
    assert found.strip() == str(sorted([int(parent), int(own)]))
    assert os.getppid() in arbiter_and_workers()


def test_without_proc_and_cgroups_the_series_are_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.process_metrics._PROC", tmp_path)
    monkeypatch.setattr("shared.process_metrics._CGROUPS", tmp_path)
    registry = CollectorRegistry()
    add_process_metrics(registry, lambda: [2**31 - 1])
    assert generate_latest(registry) == b""
    assert arbiter_and_workers() == [os.getppid()]


V2 = {"memory.current": "700", "memory.max": "1000", "memory.stat": "anon 600\ninactive_file 50\nfile 90\n"}
V1 = {
    "memory.usage_in_bytes": "700",
    "memory.limit_in_bytes": "1000",
    "memory.stat": "inactive_file 1\ntotal_inactive_file 60\n",
}


@pytest.mark.parametrize(
    ("membership", "folder", "files", "expected"),
    [
        ("0::/\n", "", V2, (650, 1000)),
        ("0::/kubepods/pod1/c1\n", "kubepods/pod1/c1", V2, (650, 1000)),
        ("0::/seen/from/the/host\n", "", V2, (650, 1000)),
        ("0::/\n", "", V2 | {"memory.max": "max\n"}, None),
        ("0::/\n", "", V2 | {"memory.stat": "anon 1\n"}, (700, 1000)),
        ("0::/\n", "", V2 | {"memory.current": "10"}, (0, 1000)),
        ("4:memory:/docker/c1\n0::/\n", "memory/docker/c1", V1, (640, 1000)),
        ("4:cpu,memory:/docker/c1\n", "memory", V1, (640, 1000)),
        ("4:memory:/\n", "memory", V1 | {"memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:cpu:/\n", "memory", V1, None),
        ("0::/\n", "elsewhere", V2, None),
        ("0::/\n", "", V2 | {"memory.max": "many"}, None),
    ],
)
def test_the_containers_memory_is_read_from_either_cgroup(
    tmp_path: Path, membership: str, folder: str, files: dict[str, str], expected: tuple[int, int] | None
) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(membership)
    (cgroups / folder).mkdir(parents=True)
    for name, text in files.items():
        (cgroups / folder / name).write_text(text)
    assert container_memory(proc, cgroups) == expected
