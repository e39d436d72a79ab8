"""The servers and the Procfile's processes together, as `make up` and `make demo` run them."""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import urllib3

from deploy.local import machine, servers
from deploy.local.machine import StackError
from deploy.local.stack import ROOT, LocalStack, Say

STATE = ROOT / ".stack"
ENV_FILE = STATE / "env"

PROBES = {
    "GATEWAY_URL": "/analytics/v1/status/readyz",
    "INGESTOR_URL": "/readyz",
    "ROLLUP_WORKER_URL": "/readyz",
    "EXPORT_WORKER_URL": "/readyz",
}
"""The path that tells whether a process is ready, by the setting that carries its URL."""


def _home() -> Path:
    """Return an empty folder for the servers: in the checkout, or where their user can reach it."""
    home = STATE / "servers"
    if machine.reachable(home, machine.server_user_id()):
        shutil.rmtree(home, ignore_errors=True)
        return home
    # The checkout lies in a private folder. Opening that is not ours to do.
    home = Path(tempfile.mkdtemp(prefix="analytics-stack-"))
    home.chmod(0o711)
    return home


class LocalFleet:
    """Starts the servers, prepares the database, runs the Procfile with honcho; stops it all."""

    def __init__(self, say: Say) -> None:
        STATE.mkdir(mode=0o755, exist_ok=True)
        self._say = say
        self._home = _home()
        self.stack = LocalStack(self._home, say=say)
        self.log = STATE / "fleet.log"
        self._processes: servers.Server | None = None
        self.urls: dict[str, str] = {}

    def start(self) -> Self:
        """Return once every process says it is ready. Raises StackError that says what is wrong."""
        began = time.monotonic()
        self._say(
            "starting PostgreSQL, RabbitMQ, Redis and S3 on loopback, on ports and passwords of their own"
        )
        try:
            self.stack.start()
            self.stack.prepare_database()
            self._say("the database is migrated")
            self._start_processes()
        except BaseException:
            self.stop()
            raise
        self._say(f"the fleet is ready after {time.monotonic() - began:.1f} s")
        return self

    def _start_processes(self) -> None:
        ports = dict(zip(PROBES, machine.free_ports(len(PROBES)), strict=True))
        if chosen := os.environ.get("HTTP_PORT"):
            ports["GATEWAY_URL"] = int(chosen)
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        port_settings = {
            ("HTTP_PORT" if name == "GATEWAY_URL" else name.replace("_URL", "_METRICS_PORT")): str(port)
            for name, port in ports.items()
        }
        self.stack.write_env(ENV_FILE, **self.urls)
        self.log.write_bytes(b"")
        self._processes = servers.start(
            "the fleet",
            [sys.executable, "-m", "honcho", "start", "--no-colour", "-f", str(ROOT / "Procfile")],
            self.log,
            folder=ROOT,
            environ={
                **os.environ,
                **self.stack.settings,
                **port_settings,
                "PATH": f"{machine.BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}",
                "PYTHONUNBUFFERED": "1",
            },
            grace_seconds=30,
            as_server_user=False,
        )
        http = urllib3.PoolManager(retries=False, timeout=5)
        for name, path in PROBES.items():
            self._processes.wait_ready(lambda url=self.urls[name] + path: _answers(http, url))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def wait(self) -> None:
        """Wait until the processes end by themselves, which they should not. Raises StackError then."""
        assert self._processes is not None
        self._processes.guard.wait()
        tail = "\n    ".join(self.log.read_text(errors="replace").splitlines()[-15:])
        raise StackError(f"a process ended, and the fleet with it; the end of {self.log}:\n    {tail}")

    def stop(self) -> None:
        """Stop the processes, then the servers."""
        # A second Ctrl-C must not interrupt the stopping.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._processes is not None:
            self._processes.stop()
        self.stack.stop()
        ENV_FILE.unlink(missing_ok=True)
        shutil.rmtree(self._home / "s3", ignore_errors=True)
        if self._home.parent != STATE:
            shutil.rmtree(self._home, ignore_errors=True)
        signal.signal(signal.SIGINT, previous)


def _answers(http: urllib3.PoolManager, url: str) -> bool:
    try:
        return http.request("GET", url).status == 200
    except urllib3.exceptions.HTTPError:
        return False
