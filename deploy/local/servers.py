"""How each server is started, found ready, and stopped."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pika
import psycopg2
import redis
import urllib3

from deploy.local import machine
from deploy.local.machine import StackError


@dataclass
class Server:
    """A server below its guard."""

    name: str
    log: Path
    spawn: Callable[[], subprocess.Popen[bytes]]
    """Starts a guard with the server below it, each time alike."""
    guard: subprocess.Popen[bytes]
    environ: Mapping[str, str] = field(default_factory=dict)
    """What its own commands need too."""
    settings: dict[str, str] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)
    """Files it leaves outside its folder, removed when it has stopped."""
    ready: Callable[[], bool] = lambda: False
    """Whether it answers; known once it was waited for."""

    def wait_ready(self, ready: Callable[[], bool], seconds: float = 60) -> None:
        """Wait until it answers. Raises StackError with its log's end when it does not."""
        self.ready = ready
        deadline = time.monotonic() + seconds
        while not ready():
            if self.guard.poll() is not None:
                raise StackError(f"{self.name} did not start; {self.tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} was not ready within {seconds:.0f} s; {self.tail()}")
            time.sleep(0.05)

    def tail(self) -> str:
        """Return the last lines of its log, with the log's name."""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n    ".join([f"the end of {self.log}:", *lines])

    def signal_server(self, number: signal.Signals) -> None:
        """Send a signal to the server's process group: SIGSTOP, SIGCONT or SIGKILL in drills."""
        [child] = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()
        os.killpg(int(child), number)

    def kill(self) -> None:
        """SIGKILL it, and wait until its guard has seen that."""
        self.signal_server(signal.SIGKILL)
        self.guard.wait(timeout=20)

    def start_again(self) -> None:
        """Start it again after kill(), on the same port and data, and wait until it answers."""
        if self.guard.stdin:
            self.guard.stdin.close()
        self.guard = self.spawn()
        self.wait_ready(self.ready)

    def stop_and_wait(self, number: signal.Signals) -> None:
        """Stop it with a signal of its own, and wait until its guard has seen that."""
        self.signal_server(number)
        self.guard.wait(timeout=40)

    def begin_stop(self) -> None:
        """Let the guard end it."""
        with contextlib.suppress(OSError):
            if self.guard.stdin:
                self.guard.stdin.close()

    def stop(self) -> None:
        """Let the guard end it, and wait for that."""
        self.begin_stop()
        self.guard.wait(timeout=40)
        for path in self.leftovers:
            path.unlink(missing_ok=True)


def start(
    name: str,
    command: list[str],
    log: Path,
    *,
    folder: Path,
    environ: Mapping[str, str],
    stop_signal: signal.Signals = signal.SIGTERM,
    grace_seconds: float = 10,
    as_server_user: bool = True,
) -> Server:
    """Start a command below a guard, as the servers' user, in a folder, logging to a file."""
    arguments = [
        sys.executable,
        str(Path(__file__).with_name("guard.py")),
        str(int(stop_signal)),
        str(grace_seconds),
    ]

    def spawn() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [*arguments, str(machine.server_user_id() if as_server_user else -1), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", **environ},
                start_new_session=True,
                close_fds=False,  # the guard keeps the lock of the checkout, all else is not inheritable
            )

    return Server(name, log, spawn, spawn(), environ)


def postgres_answers(url: str) -> bool:
    """Return whether PostgreSQL lets the URL's user in."""
    try:
        psycopg2.connect(f"{url}/postgres", connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def rabbitmq_answers(url: str) -> bool:
    """Return whether RabbitMQ lets the URL's user in."""
    parameters = pika.URLParameters(url)
    try:
        # pika is loud about a port that is still closed.
        socket.create_connection((parameters.host, parameters.port), timeout=2).close()
        pika.BlockingConnection(parameters).close()
    except (OSError, pika.exceptions.AMQPError):
        return False
    return True


def redis_answers(url: str) -> bool:
    """Return whether Redis lets the URL's user in."""
    try:
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def s3_answers(endpoint: str) -> bool:
    """Return whether an S3 server speaks HTTP at the endpoint."""
    with urllib3.PoolManager(retries=False, timeout=2) as http:
        try:
            return http.request("GET", f"http://{endpoint}/").status in {200, 403}
        except urllib3.exceptions.HTTPError:
            return False


# Each bucket takes volumes of its own, and there are as many as find room on the disk: so they are small.
SEAWEEDFS_OPTIONS = [
    "-master.volumeSizeLimitMB=64",
    "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
    "-s3.autoCreateBucket=false",
]  # fmt: skip


def start_postgres(
    folder: Path,
    log: Path,
    programs: Path,
    *,
    shared_buffers: str,
    more_options: Mapping[str, str] = MappingProxyType({}),
) -> Server:
    """Start PostgreSQL; the settings hold ADMIN_DATABASE_URL, a superuser's."""
    user_id = machine.server_user_id()
    password = secrets.token_urlsafe(18)
    [port] = machine.free_ports(1)
    initdb = machine.usable(machine.postgres_folder() / "initdb", user_id, programs)
    data = machine.give(folder, user_id) / "data"
    identity: dict[str, Any] = {} if user_id < 0 else {"user": user_id, "group": user_id, "extra_groups": []}
    if not data.exists():
        password_file = folder / "password"
        password_file.write_text(password)
        if user_id >= 0:
            os.chown(password_file, user_id, user_id)
        made = subprocess.run(
            [str(initdb), "-D", str(data), "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8",
             "--locale=C", f"--pwfile={password_file}", "--no-sync", "--no-instructions"],
            cwd=folder, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, capture_output=True, text=True,
            check=False, close_fds=False, **identity,
        )  # fmt: skip
        password_file.unlink()
        if made.returncode:
            raise StackError(f"initdb failed: {made.stderr.strip()}")
    options = {
        "listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(folder),
        "shared_buffers": shared_buffers, "max_wal_size": "4GB", "max_connections": "220", "timezone": "UTC",
        "log_line_prefix": "%m [%p] %d %a: ",
    }  # fmt: skip
    if (initdb.parent.parent / "lib").exists() and any(initdb.parent.parent.glob("lib/**/timescaledb.so")):
        options |= {"shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off"}
    options |= more_options
    command = [str(initdb.with_name("postgres")), "-D", str(data)]
    for name, value in options.items():
        command += ["-c", f"{name}={value}"]
    server = start("PostgreSQL", command, log, folder=folder, environ={}, stop_signal=signal.SIGINT)
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}"
    server.settings = {"ADMIN_DATABASE_URL": url}
    server.wait_ready(lambda: postgres_answers(url))
    return server


def start_rabbitmq(folder: Path, log: Path) -> list[Server]:
    """Start RabbitMQ and the port mapper it needs; the settings hold RABBITMQ_URL."""
    machine.give(folder, machine.server_user_id())
    port, dist_port, epmd_port = machine.free_ports(3)
    password = secrets.token_urlsafe(18)
    config = folder / "rabbitmq.conf"
    config.write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\ndefault_user = fleet\ndefault_pass = {password}\n"
        "default_user_tags.administrator = true\nlog.file = false\n"
        "log.console = true\nlog.console.level = warning\n"
        "disk_free_limit.absolute = 50MB\n"
    )
    (folder / "enabled_plugins").write_text("[].\n")
    for path in (config, folder / "enabled_plugins"):
        path.chmod(0o644)
    epmd_environ = {"ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
    epmd = start(
        "epmd", [str(machine.epmd_program()), "-port", str(epmd_port), "-address", "127.0.0.1"],
        log.with_name("epmd.log"), folder=folder, environ=epmd_environ, grace_seconds=2,
    )  # fmt: skip
    environ = epmd_environ | {
        "HOME": str(folder),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
        "RABBITMQ_NODENAME": f"stack{port}@localhost",
        "RABBITMQ_DIST_PORT": str(dist_port),
        # Then the script becomes the broker instead of waiting beside it, and what kills it kills both.
        "RUNNING_UNDER_SYSTEMD": "1",
        # Two cores are shared with everything else: busy waiting schedulers would take them.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none"
        " -kernel inet_dist_use_interface {127,0,0,1}",
    }
    server = start(
        "RabbitMQ", [str(machine.rabbitmq_folder() / "rabbitmq-server")], log, folder=folder, environ=environ
    )  # fmt: skip
    url = f"amqp://fleet:{password}@127.0.0.1:{port}/%2F"
    server.settings = {"RABBITMQ_URL": url}
    server.wait_ready(lambda: rabbitmq_answers(url))
    return [epmd, server]


def start_valkey(folder: Path, log: Path, programs: Path) -> Server:
    """Start Valkey; the settings hold REDIS_URL."""
    user_id = machine.server_user_id()
    machine.give(folder, user_id)
    [port] = machine.free_ports(1)
    password = secrets.token_urlsafe(18)
    config = folder / "valkey.conf"
    config.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\nmaxmemory 64mb\n'
        "maxmemory-policy allkeys-lru\ndatabases 1024\n"
    )
    config.chmod(0o644)
    program = machine.usable(machine.valkey_program(), user_id, programs)
    server = start("Redis", [str(program), str(config)], log, folder=folder, environ={})
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    server.settings = {"REDIS_URL": url}
    server.wait_ready(lambda: redis_answers(url))
    return server


def start_seaweedfs(folder: Path, log: Path, programs: Path) -> Server:
    """Start SeaweedFS's S3 server; the settings hold S3_ENDPOINT, its keys and S3_SECURE."""
    user_id = machine.server_user_id()
    machine.give(folder, user_id)
    s3, master, filer, volume, admin = machine.free_ports(5)
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    (folder / "security.toml").write_text(
        "".join(
            f'[jwt.{part}]\nkey = "{secrets.token_hex(16)}"\n'
            for part in ("signing", "signing.read", "filer_signing", "filer_signing.read")
        )
    )
    (folder / "security.toml").chmod(0o644)
    program = machine.usable(machine.weed_program(), user_id, programs)
    command = [
        str(program), f"-logdir={folder}", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={s3}",
        f"-master.port={master}", f"-filer.port={filer}", f"-volume.port={volume}", f"-admin.port={admin}",
        *SEAWEEDFS_OPTIONS, f"-s3.localSocket={folder}/s3.sock",
    ]  # fmt: skip
    environ = {
        "HOME": str(folder), "TMPDIR": str(folder), "GOMEMLIMIT": "512MiB",
        "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key,
    }  # fmt: skip
    # It may take half a minute over SIGTERM, and its data outlive SIGKILL.
    server = start("S3", command, log, folder=folder, environ=environ, grace_seconds=2)
    server.settings = {
        "S3_ENDPOINT": f"127.0.0.1:{s3}", "S3_SECURE": "false",
        "S3_ACCESS_KEY": access_key, "S3_SECRET_KEY": secret_key,
    }  # fmt: skip
    # Its parts talk through sockets whose place cannot be chosen.
    server.leftovers = [
        Path(f"/tmp/seaweedfs-{part}-grpc-{port + 10_000}.sock")  # noqa: S108
        for part, port in (("master", master), ("volume", volume), ("filer", filer), ("s3", s3))
    ]
    server.wait_ready(lambda: s3_answers(f"127.0.0.1:{s3}"))
    return server
