"""The launcher itself: private servers on loopback, gone with whoever started them."""

import json
import os
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pika
import psycopg2
import pytest
import redis

from deploy.local import containers, env_file, machine
from deploy.local.checkout import ROOT
from deploy.local.machine import StackError
from deploy.local.stack import LocalStack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

_LAUNCH = """
import json, sys
from pathlib import Path
from deploy.local.stack import LocalStack

stack = LocalStack(Path(sys.argv[1]), environ={}).start()
print(json.dumps(stack.settings), flush=True)
sys.stdin.read()
stack.stop()
"""

_STANDARD_PORTS = {5432, 5672, 15672, 25672, 4369, 6379, 8333, 8888, 9333, 8080, 23646}


class Launcher:
    """A process of its own that starts the servers in a folder and waits."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(home)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._settings: dict[str, str] = {}

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its servers, once they are up."""
        if not self._settings:
            assert self.popen.stdout is not None
            assert select.select([self.popen.stdout], [], [], 90)[0], "the servers did not start within 90 s"
            self._settings = json.loads(self.popen.stdout.readline())
        return self._settings

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()

    def stop(self) -> None:
        self.popen.communicate(timeout=60)


@pytest.fixture(scope="module")
def new_home() -> Iterator[Callable[[], Path]]:
    """Makes folders that the servers' user can reach."""
    homes: list[Path] = []

    def make() -> Path:
        homes.append(machine.temporary_home("analytics-stack-test-"))
        return homes[-1]

    yield make
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def pair(new_home: Callable[[], Path]) -> Iterator[tuple[Launcher, Launcher]]:
    """Two launchers that run side by side."""
    launchers = Launcher(new_home()), Launcher(new_home())
    yield launchers
    for launcher in launchers:
        launcher.stop()


def processes(home: Path) -> dict[int, str]:
    """Return the command line of every process that works in the folder or names it, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            working_in = (folder / "cwd").readlink()
        except OSError:
            continue  # it has ended, or is somebody else's
        if working_in.is_relative_to(home) or f"{home}/" in command:
            found[int(folder.name)] = command
    return found


def listening(pids: dict[int, str]) -> set[tuple[str, int]]:
    """Return the addresses (hexadecimal, as the kernel writes them) and ports the processes listen on."""
    sockets = {
        fields[9]: (fields[1].partition(":")[0], int(fields[1].partition(":")[2], 16))
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in map(str.split, Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A"
    }
    links: set[str] = set()
    for pid in pids:
        with suppress(OSError):  # RabbitMQ's disk monitor runs short commands
            links |= {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {place for inode, place in sockets.items() if f"socket:[{inode}]" in links}


def user_ids(pid: int) -> list[str]:
    """Return the users a process acts as, or nothing when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("Uid:"):
                return line.split()[1:]
    return []


def assert_all_end(home: Path, seconds: float = 25) -> None:
    deadline = time.monotonic() + seconds
    while left := processes(home):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def guards(home: Path) -> list[int]:
    return [pid for pid, command in processes(home).items() if "guard.py" in command]


def test_two_stacks_run_side_by_side(pair: tuple[Launcher, Launcher]) -> None:
    for launcher in pair:
        psycopg2.connect(launcher.settings["ADMIN_DATABASE_URL"] + "/postgres").close()
        pika.BlockingConnection(pika.URLParameters(launcher.settings["RABBITMQ_URL"])).close()
        with redis.Redis.from_url(launcher.settings["REDIS_URL"]) as client:
            assert client.ping()
    first, second = (launcher.settings for launcher in pair)
    assert {name for name in first if first[name] == second[name]} == {"S3_SECURE"}


def test_every_server_listens_on_loopback_alone_and_on_no_standard_port(
    pair: tuple[Launcher, Launcher],
) -> None:
    assert pair[0].settings
    places = listening(processes(pair[0].home))
    assert len(places) > 10  # the four servers, the port mapper, SeaweedFS's parts
    assert {address for address, _ in places} <= {"0100007F", "00000000000000000000000001000000"}
    assert {port for _, port in places} & _STANDARD_PORTS == set()


def test_every_server_runs_as_an_ordinary_user(pair: tuple[Launcher, Launcher]) -> None:
    assert pair[0].settings
    home = pair[0].home
    servers = processes(home).keys() - set(guards(home)) - {pair[0].popen.pid}
    assert len(servers) > 10
    assert "0" not in {user_id for pid in servers for user_id in user_ids(pid)}


def test_a_launcher_killed_at_work_leaves_no_process_behind(new_home: Callable[[], Path]) -> None:
    launcher = Launcher(new_home())
    assert launcher.settings
    names = " ".join(processes(launcher.home).values())
    for name in ("postgres", "beam.smp", "epmd", "valkey-server", "weed"):
        assert name in names
    launcher.kill()
    assert_all_end(launcher.home)


def test_a_launcher_killed_while_starting_leaves_no_process_behind(new_home: Callable[[], Path]) -> None:
    launcher = Launcher(new_home())
    deadline = time.monotonic() + 30
    while len(guards(launcher.home)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launcher.kill()
    assert_all_end(launcher.home)


def test_servers_whose_guards_are_killed_end_too(pair: tuple[Launcher, Launcher]) -> None:
    launcher = pair[1]
    assert launcher.settings
    for pid in guards(launcher.home):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (left := processes(launcher.home)).keys() > {launcher.popen.pid}:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("DATABASE_URL", "PostgreSQL"),
        ("REDIS_URL", "Redis"),
        ("S3_ENDPOINT", "S3"),
        ("RABBITMQ_URL", "RabbitMQ"),
    ],
)
def test_a_setting_that_is_already_there_wins_over_a_server(
    new_home: Callable[[], Path], name: str, server: str
) -> None:
    # RabbitMQ's is always there: its start takes longer than all the others together.
    given = {"RABBITMQ_URL": "amqp://given/", name: "given", "S3_BUCKET": "given"}
    stack = LocalStack(new_home(), environ=given)
    try:
        stack.start()
        assert stack.servers.keys() == {"PostgreSQL", "Redis", "S3"} - {server}
        assert stack.settings.items() >= given.items()
    finally:
        stack.stop()


def test_a_shell_reads_the_settings_back_whatever_they_hold(new_home: Callable[[], Path]) -> None:
    settings = {"PLAIN": "x", "SPECIAL": "a b'c\"d$HOME`id`\\!#&;é\nnext", "EMPTY": "", "MORE": "*"}
    path = new_home() / "env"
    path.touch(mode=0o644)
    env_file.write(path, settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shell = subprocess.run(
        ["/bin/sh", "-c", f"set -a; . {shlex.quote(str(path))}; env -0"],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    read = dict(entry.split("=", 1) for entry in shell.stdout.split("\0") if entry)
    assert read.items() >= settings.items()


def test_where_no_docker_engine_answers_the_tests_use_local_servers_and_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("TEST_SERVERS", "auto")
    assert containers.choose() == (False, "local servers (no Docker engine answers)")
    for demanded in ("containers", "nonsense"):
        monkeypatch.setenv("TEST_SERVERS", demanded)
        with pytest.raises(StackError):
            containers.choose()
