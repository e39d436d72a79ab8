"""The commands of a newcomer's first minutes, as processes, each in a copy of the checkout."""

import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg2
import pytest

from deploy.local import machine
from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack
from tests.support.fleet import coverage_settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs")
_IS_ROOT = os.geteuid() == 0
_NOBODY = pwd.getpwnam("nobody").pw_uid
# It may read this checkout and its Python wherever they are, and writes only what is its own.
_AS_NOBODY = [
    "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
]  # fmt: skip
_RUN = ("-m", "deploy.local", "run")
_UP = ("-m", "deploy.local", "up")
_DOWN = ("-m", "deploy.local", "down")
_DEMO = ("-m", "deploy.local.demo")


class Checkout:
    """A copy of this checkout, and its commands as processes."""

    def __init__(self, folder: Path, *, as_nobody: bool = False) -> None:
        shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)
        self.folder = folder
        self.state = folder / ".stack"
        self._identity = _AS_NOBODY if as_nobody else []
        if as_nobody:
            os.chown(folder, _NOBODY, _NOBODY)

    def begin(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start a Python command; its output comes on one pipe."""
        return self.begin_program(sys.executable, *arguments, **environ)

    def begin_program(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """Start a program."""
        return subprocess.Popen(
            [*self._identity, *command], cwd=self.folder,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **coverage_settings(), **environ},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def command(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run a Python command; return its exit code and what it printed."""
        return finish(self.begin(*arguments, **environ))

    def make(self, *arguments: str) -> tuple[int, str]:
        """Run make; return its exit code and what it printed."""
        return finish(self.begin_program("make", *arguments))

    @property
    def holder(self) -> dict[str, object]:
        """Who took the lock, as the file names it."""
        found: dict[str, object] = json.loads((self.state / "lock").read_text())
        return found

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its running stack, as a shell reads them."""
        shell = subprocess.run(
            ["/bin/sh", "-c", "set -a; . .stack/env; env -0"],
            cwd=self.folder, env={}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        read = dict(entry.split("=", 1) for entry in shell.stdout.split("\0") if entry)
        return {name: value for name, value in read.items() if name != "PWD"}


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    printed, _ = process.communicate(timeout=180)
    return process.returncode, printed


def launchers(folder: Path) -> list[str]:
    """Return the command lines of all processes that work in a folder or run a program of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            working_in = (process / "cwd").readlink()
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has ended, or is somebody else's
        if working_in.is_relative_to(folder) or str(folder) in command:
            found.append(command)
    return found


@pytest.fixture
def new_checkout() -> Iterator[Callable[..., Checkout]]:
    """Makes copies of the checkout; what runs in them at the end is stopped."""
    place = Path(tempfile.mkdtemp(prefix="analytics-checkout-"))
    place.chmod(0o755)
    made: list[Checkout] = []

    def make(name: str = "checkout", *, as_nobody: bool = False) -> Checkout:
        made.append(Checkout(place / name, as_nobody=as_nobody))
        return made[-1]

    yield make
    for checkout in made:
        checkout.command(*_DOWN)
    shutil.rmtree(place)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with the stack."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def mark(settings: Mapping[str, str]) -> None:
    with psycopg2.connect(settings["DATABASE_URL"]) as connection, connection.cursor() as cur:
        cur.execute("CREATE TABLE public.mark AS SELECT 1 AS mark")
    connection.close()


def marks(settings: Mapping[str, str]) -> int:
    connection = psycopg2.connect(settings["DATABASE_URL"])
    with connection.cursor() as cur:
        cur.execute("SELECT FROM pg_tables WHERE tablename = 'mark'")
        found = cur.rowcount
    connection.close()
    return found


def test_one_stack_runs_in_a_checkout_and_whoever_comes_second_is_told_by_whom(
    new_checkout: Callable[..., Checkout],
) -> None:
    checkout = new_checkout()
    both = [checkout.begin(*_UP), checkout.begin(*_UP)]
    ended = sorted(finish(process) for process in both)
    assert [code for code, _ in ended] == [0, 1], ended
    (_, won), (_, refused) = ended
    assert "up. Settings: .stack/env" in won
    assert "`make up` (process " in refused
    assert "make down" in refused

    settings, pid = checkout.settings, checkout.holder["pid"]
    mark(settings)
    for second in (_DEMO, _RUN):
        code, printed = checkout.command(*second)
        assert code == 1
        assert f"`make up` (process {pid}, since 20" in printed
        assert "make down" in printed
        assert "Traceback" not in printed
    code, printed = checkout.command(*_UP)
    assert (code, f"already up: `make up` (process {pid}" in printed) == (0, True), printed
    assert checkout.settings == settings
    assert marks(settings) == 1

    # Without .venv too, and with nothing but Python itself.
    code, printed = checkout.make("down", f"PYTHON={sys.executable} -S")
    assert (code, f"process {pid}" in printed) == (0, True), printed
    assert launchers(checkout.folder) == []
    assert not (checkout.state / "env").exists()
    assert checkout.command(*_DOWN) == (0, "nothing is up\n")


def test_settings_of_a_stack_that_is_gone_are_not_used_and_those_of_a_person_are(
    new_checkout: Callable[..., Checkout], stack: LocalStack
) -> None:
    checkout = new_checkout()
    assert checkout.command(*_UP)[0] == 0
    sourced = checkout.settings
    mark(sourced)
    launcher = int(str(checkout.holder["pid"]))

    # Killed: its servers end by themselves, and the next start waits for that.
    os.kill(launcher, signal.SIGKILL)
    theirs = stack.settings["REDIS_URL"]
    code, printed = checkout.command(*_UP, **{**sourced, "REDIS_URL": theirs})
    assert code == 0, printed
    assert f"not using the {len(sourced) - 2} settings" in printed  # all but the mark and REDIS_URL
    now = checkout.settings
    assert now["REDIS_URL"] == theirs
    others = sourced.keys() - {"REDIS_URL", "S3_SECURE"}
    assert [name for name in others if now[name] == sourced[name]] == []
    assert marks(now) == 0
    assert checkout.command(*_DOWN)[0] == 0
    assert launchers(checkout.folder) == []


def test_an_ordinary_user_in_a_long_path_with_spaces_and_two_times_ctrl_c(
    new_checkout: Callable[..., Checkout],
) -> None:
    checkout = new_checkout(f"a place with spaces, (Größe) {'long' * 20}/✓", as_nobody=_IS_ROOT)
    running = checkout.begin(*_RUN, TMPDIR="/nonexistent folder")
    deadline = time.monotonic() + 120
    while not (checkout.state / "lock").exists() or not checkout.holder["ready"]:
        assert running.poll() is None, finish(running)
        assert time.monotonic() < deadline
        time.sleep(0.1)
    mark(checkout.settings)
    home = Path((checkout.state / "home").read_text())
    running.send_signal(signal.SIGINT)
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    code, printed = finish(running)
    assert code == 0, printed
    assert "stopping" in printed
    assert "Traceback" not in printed
    assert not home.exists()
    assert launchers(checkout.folder) == launchers(home) == []


def test_a_number_in_a_file_that_is_left_over_stops_no_process(
    new_checkout: Callable[..., Checkout], bystander: subprocess.Popen[bytes]
) -> None:
    checkout = new_checkout()
    checkout.state.mkdir()
    left_over = {"command": "make up", "pid": bystander.pid, "birth": "1", "since": "long ago", "ready": True}
    (checkout.state / "lock").write_text(json.dumps(left_over))
    (checkout.state / "pid").write_text(str(bystander.pid))
    assert checkout.command(*_DOWN) == (0, "nothing is up\n")
    with (checkout.state / "lock").open() as held:
        # As after a kill: the servers' guards hold the lock, and the launcher's number is another's now.
        fcntl.flock(held, fcntl.LOCK_EX)
        stopping = checkout.begin(*_DOWN)
        time.sleep(2)
        assert stopping.poll() is None
    code, printed = finish(stopping)
    assert (code, printed) == (0, "an earlier stack was still stopping; now it is gone\n")
    assert bystander.poll() is None


@pytest.mark.parametrize("target", ["down", "clean"])
def test_make_installs_nothing_to_stop_or_to_clean(
    new_checkout: Callable[..., Checkout], target: str
) -> None:
    checkout = new_checkout()
    code, printed = checkout.make(target, "PYTHON=/bin/false")
    assert code == 0, printed
    assert "nothing is up" in printed
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize("port", ["taken", "http", "0", "65536"])
def test_a_port_that_cannot_be_had_is_one_sentence(new_checkout: Callable[..., Checkout], port: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        chosen = str(listener.getsockname()[1]) if port == "taken" else port
        code, printed = new_checkout().command(*_RUN, HTTP_PORT=chosen)
    assert code == 1
    assert chosen in printed
    assert "HTTP_PORT" in printed
    assert len(printed.strip().splitlines()) == 1


@pytest.mark.skipif(not _IS_ROOT, reason="makes folders of another user")
@pytest.mark.parametrize("command", [_RUN, _UP, _DEMO])
def test_a_folder_of_another_user_is_one_sentence(
    new_checkout: Callable[..., Checkout], command: tuple[str, ...]
) -> None:
    checkout = new_checkout(as_nobody=True)
    checkout.state.mkdir()
    (checkout.state / "servers").mkdir()
    (checkout.state / "servers" / "data").touch()
    code, printed = checkout.command(*command)
    assert code == 1
    assert ".stack" in printed
    assert "another user" in printed
    assert "Traceback" not in printed


def test_a_disk_without_room_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("deploy.local.stack._MIN_FREE_BYTES", 10**18)
    home = machine.temporary_home("analytics-full-")
    try:
        with pytest.raises(machine.StackError, match="MB free; the servers need"):
            LocalStack(home, environ={})
    finally:
        shutil.rmtree(home)
