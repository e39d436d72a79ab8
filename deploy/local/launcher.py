"""The servers and the Procfile's processes together, as `make up` and `make demo` run them."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

import urllib3

from deploy.local import checkout, env_file, machine, servers
from deploy.local.checkout import ROOT, STATE
from deploy.local.machine import StackError
from deploy.local.stack import LocalStack

ENV_FILE = STATE / "env"
LOGS = STATE / "logs"
_HOME_FILE = STATE / "home"
_HOME_PREFIX = "analytics-stack-"

_PROBES = {
    "gateway": "/analytics/v1/status/readyz",
    "ingestor": "/readyz",
    "rollup_worker": "/readyz",
    "export_worker": "/readyz",
}
"""The path that answers whether a process is ready, by its name in the Procfile."""

_CONSOLE = "/analytics/console/"


def write_line(message: str) -> None:
    """Print a line of progress with the time. A terminal that has gone away is no reason to stop."""
    with suppress(OSError):
        sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S}  {message}\n")
        sys.stdout.flush()


def procfile() -> dict[str, str]:
    """Return the Procfile's commands by process name."""
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name.strip(): command.strip() for name, _, command in pairs}


class LocalFleet:
    """Starts the servers, prepares the database, runs the Procfile's processes; stops it all."""

    def __init__(self) -> None:
        self._home = _new_home()
        self.stack = LocalStack(self._home, write_line=write_line)
        self._processes: list[servers.Server] = []
        self.urls: dict[str, str] = {}
        self.console_url = ""

    def start(self) -> Self:
        """Return once every process is ready. Raises StackError with what is wrong."""
        began = time.monotonic()
        ports = _choose_ports()
        write_line("starting the servers on loopback, with ports and passwords of their own")
        self.stack.start()
        self.stack.prepare_database()
        write_line("the database is migrated")
        self._start_processes(ports)
        write_line(f"the fleet is ready after {time.monotonic() - began:.1f} s")
        return self

    def _start_processes(self, ports: dict[str, int]) -> None:
        self.urls = {f"{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in ports.items()}
        [door_port] = machine.free_ports(1)
        self.console_url = f"http://127.0.0.1:{door_port}{_CONSOLE}"
        env_file.write(ENV_FILE, {**self.stack.settings, **self.urls, "CONSOLE_URL": self.console_url})
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir()
        path = f"{machine.BIN}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        for name, command in procfile().items():
            port_name = "HTTP_PORT" if name == "gateway" else f"{name.upper()}_METRICS_PORT"
            own = {"PATH": path, "PYTHONUNBUFFERED": "1", port_name: str(ports[name])}
            self._processes.append(
                servers.start(
                    f"the {name.replace('_', ' ')}",
                    ["/bin/sh", "-c", command],
                    LOGS / f"{name}.log",
                    folder=ROOT,
                    environ={**os.environ, **self.stack.settings, **own},
                    grace_seconds=30,
                    as_server_user=False,
                )
            )
        http = urllib3.PoolManager(retries=False, timeout=5)
        for process, (name, probe) in zip(self._processes, _PROBES.items(), strict=True):
            url = f"http://127.0.0.1:{ports[name]}{probe}"
            process.wait_ready(lambda url=url: _answers(http, url))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        self._start_front_door(http, door_port)

    def _start_front_door(self, http: urllib3.PoolManager, port: int) -> None:
        command = [sys.executable, "-m", "deploy.local.front_door", "--port", str(port)]
        door = servers.start(
            "the front door",
            [*command, "--gateway", self.urls["GATEWAY_URL"]],
            LOGS / "front_door.log",
            folder=ROOT,
            environ={"PYTHONUNBUFFERED": "1"},
            grace_seconds=2,
            as_server_user=False,
        )
        self._processes.append(door)
        door.wait_ready(lambda: _answers(http, f"http://127.0.0.1:{port}/front-door.css"))

    def wait(self) -> NoReturn:
        """Wait until a process or a server ends by itself, which it should not. Raises StackError then."""
        while True:
            for each in (*self._processes, *self.stack.servers.values()):
                if isinstance(each, servers.Server) and (code := each.guard.poll()) is not None:
                    raise StackError(f"{each.name} ended by itself, with code {code}; {each.tail()}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the processes, then the servers."""
        for process in self._processes:
            process.begin_stop()
        for process in self._processes:
            process.stop()
        self.stack.stop()
        ENV_FILE.unlink(missing_ok=True)
        shutil.rmtree(self._home / "s3", ignore_errors=True)
        if self._home.parent != STATE:
            shutil.rmtree(self._home, ignore_errors=True)


def run_fleet(command: str, work: Callable[[LocalFleet], int], lock: checkout.Lock | None = None) -> int:
    """Run the fleet while `work` runs; return what it returns, or 1 with a reason on standard error.

    command: what the person typed, for the lock of the checkout. lock: the lock, where the caller has it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        lock = lock or checkout.acquire(command)
        lock.sign(command)
        if forgotten := env_file.forget_earlier_stack(os.environ):
            write_line(
                f"not using the {len(forgotten)} settings that this shell has from an earlier .stack/env"
            )
        fleet = LocalFleet()
        try:
            fleet.start()
            lock.sign(command, ready=True)
            return work(fleet)
        finally:
            fleet.stop()
    except KeyboardInterrupt:
        write_line("stopped")
        return 130
    except (StackError, OSError) as error:
        sys.stderr.write(f"\n{machine.explain(error)}\n")
        return 1


def _interrupt(*_: int | FrameType | None) -> None:
    """End what is being done; a second signal must not interrupt the stopping."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # write_line() may be at work
        os.write(sys.stdout.fileno(), f"\n{datetime.now(UTC):%H:%M:%S}  stopping\n".encode())
    raise KeyboardInterrupt


def _new_home() -> Path:
    """Return an empty folder for the servers: in the checkout, or where they can live.

    Raises OSError when what an earlier stack left there cannot be removed.
    """
    _remove_earlier_home()
    home = STATE / "servers"
    if machine.suits_servers(home):
        return home
    # The checkout's path is private, long or special. Opening or moving it is not ours to do.
    home = machine.temporary_home(_HOME_PREFIX)
    (home / "checkout").write_text(str(ROOT), encoding="utf-8")
    _HOME_FILE.write_text(str(home), encoding="utf-8")
    return home


def _remove_earlier_home() -> None:
    if (STATE / "servers").exists():
        shutil.rmtree(STATE / "servers")
    with suppress(FileNotFoundError):
        home = Path(_HOME_FILE.read_text(encoding="utf-8"))
        ours = home.name.startswith(_HOME_PREFIX) and not home.is_symlink() and home.owner() == STATE.owner()
        if ours and (home / "checkout").read_text(encoding="utf-8") == str(ROOT):
            shutil.rmtree(home)
        _HOME_FILE.unlink()


def _choose_ports() -> dict[str, int]:
    """Return a port for each process; the gateway's is HTTP_PORT where that is set."""
    ports = dict(zip(_PROBES, machine.free_ports(len(_PROBES)), strict=True))
    if chosen := os.environ.get("HTTP_PORT"):
        if not chosen.isascii() or not chosen.isdigit() or not 0 < int(chosen) < 65536:
            raise StackError(f"HTTP_PORT is {chosen!r}; it must be a port, 1 to 65535")
        if not machine.is_free(int(chosen)):
            raise StackError(f"port {chosen} is taken: set HTTP_PORT to another one, or unset it")
        ports["gateway"] = int(chosen)
    return ports


def _answers(http: urllib3.PoolManager, url: str) -> bool:
    try:
        return http.request("GET", url).status == 200
    except urllib3.exceptions.HTTPError:
        return False
