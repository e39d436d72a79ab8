"""Runs the fleet's processes for tests, by the Procfile's own commands, and signals them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import urllib3

from deploy.local.checkout import ROOT
from deploy.local.launcher import procfile
from deploy.local.machine import free_ports

_http = urllib3.PoolManager(retries=False, timeout=10)


def free_port() -> int:
    """Return a TCP port that nobody listens on right now."""
    [port] = free_ports(1)
    return port


def coverage_settings() -> dict[str, str]:
    """Return what makes a process measure its coverage, under `make coverage`."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


class Process:
    """One running process of the fleet, with the URL of its probes."""

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        log_folder: Path,
        port: int | None = None,
        *,
        root: Path = ROOT,
    ) -> None:
        port = port or free_port()
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.log = log_folder / f"{name}-{port}.log"
        self._ready_path = "/analytics/v1/status/readyz" if name == "gateway" else "/readyz"
        port_name = "HTTP_PORT" if name == "gateway" else f"{name.upper().replace('-', '_')}_METRICS_PORT"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                ["/bin/sh", "-c", procfile()[name]],
                cwd=root,
                env={
                    "PATH": path,
                    "PYTHONUNBUFFERED": "1",
                    **coverage_settings(),
                    **environ,
                    port_name: str(port),
                    "METRICS_PORT": str(port),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        """Ask one of its probes, or the gateway anything."""
        return _http.request("GET", self.url + path, headers=dict(headers or {}))

    def ready(self) -> bool:
        """Return whether its own probe says so."""
        try:
            return self.get(self._ready_path).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def lives(self) -> bool:
        """Return whether it has come so far as to answer, ready or not."""
        path = "/analytics/v1/status/healthz" if self.name == "gateway" else "/healthz"
        try:
            return self.get(path).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def wait_ready(self, seconds: float = 40) -> Self:
        """Wait until it is ready. Raises AssertionError with its log's end when it ends or never is."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            assert self.popen.poll() is None, (
                f"{self.name} ended with {self.popen.returncode}:\n{self.log_tail()}"
            )
            assert time.monotonic() < deadline, f"{self.name} not ready in {seconds} s:\n{self.log_tail()}"
            time.sleep(0.1)
        return self

    def log_tail(self) -> str:
        """Return the last lines it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        """SIGKILL it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(timeout=10)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.popen.pid, number)

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM it and return its exit code. Raises subprocess.TimeoutExpired if it does not end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.popen.pid, signal.SIGTERM)
        return self.popen.wait(timeout=seconds)


class Fleet:
    """Processes that share one environment; whatever is left at the end is killed.

    root: the checkout whose code they run; by default this one.
    """

    def __init__(self, environ: Mapping[str, str], log_folder: Path, root: Path = ROOT) -> None:
        self.environ = dict(environ)
        self._root = root
        self._log_folder = log_folder
        self.processes: list[Process] = []

    def start(self, name: str, port: int | None = None, **environ: str) -> Process:
        """Start a process of the Procfile, on a free port by default; do not wait for it."""
        return self.start_of(self._root, name, port, **environ)

    def start_of(self, root: Path, name: str, port: int | None = None, **environ: str) -> Process:
        """Start a process of another checkout; do not wait for it."""
        process = Process(name, self.environ | environ, self._log_folder, port, root=root)
        self.processes.append(process)
        return process

    def start_ready(self, *names: str, **environ: str) -> list[Process]:
        """Start processes side by side and wait until all are ready."""
        return [process.wait_ready() for process in [self.start(name, None, **environ) for name in names]]

    def close(self) -> None:
        """Kill what still runs; under coverage let it end and write what it measured first."""
        for process in self.processes:
            if coverage_settings() and process.popen.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.stop(seconds=10)
            process.kill()
