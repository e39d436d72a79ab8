"""A cluster of RabbitMQ nodes on loopback, with names and ports of their own and one port mapper."""

import json
import os
import secrets
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from deploy.local import machine, servers
from deploy.local.servers import Server

NODES = 3
_TICKTIME_SECONDS = 10
"""How soon nodes take a silent one for dead. RabbitMQ's default is 60: so long confirmations would wait."""
_COMMAND_SECONDS = 60
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = fleet
default_pass = {password}
default_user_tags.administrator = true
log.file = false
log.console = true
log.console.level = warning
disk_free_limit.absolute = 50MB
cluster_partition_handling = pause_minority
net_ticktime = {ticktime}
"""


class BrokerCluster:
    """A context manager. Queues declared after it has begun have a member on each node."""

    def __init__(self, home: Path) -> None:
        self._user_id = machine.server_user_id()
        self._home = machine.give(home, self._user_id)
        self._logs = home.parent / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self._password = secrets.token_urlsafe(18)
        epmd_port, *ports = machine.free_ports(1 + 2 * NODES)
        self._ports, self._dist_ports = ports[:NODES], ports[NODES:]
        self._epmd_environ = {"ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        self.names = [f"node{number}p{port}@localhost" for number, port in enumerate(self._ports, start=1)]
        self.servers: list[Server] = []
        self._mapper: Server | None = None

    @property
    def urls(self) -> list[str]:
        """Each node's URL."""
        return [f"amqp://fleet:{self._password}@127.0.0.1:{port}/%2F" for port in self._ports]

    @property
    def url(self) -> str:
        """The URL that names them all."""
        first = urlsplit(self.urls[0])
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return first._replace(netloc=f"fleet:{self._password}@{hosts}").geturl()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the nodes, then the port mapper."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Server.stop, self.servers))
        if self._mapper is not None:
            self._mapper.stop()

    def leader(self, queue: str) -> int:
        """Return the node that leads a queue. Raises AssertionError where not all are members."""
        listed = json.loads(
            self._run("rabbitmqctl", "-q", "list_queues", "name", "leader", "members", "--formatter", "json")
        )
        [found] = [each for each in listed if each["name"] == queue]
        assert sorted(found["members"]) == sorted(self.names), found
        return self.names.index(found["leader"])

    def restart(self, number: int) -> None:
        """Stop a node as an operator does, and start it again."""
        server = self.servers[number]
        server.signal_server(signal.SIGTERM)
        server.guard.wait(timeout=60)
        server.start_again()

    def wait_whole(self, queues: list[str], seconds: float = 60) -> None:
        """Wait until each queue has a leader and two that follow it.

        The members are asked: `list_queues` left a queue out for minutes after its node was frozen.
        """
        deadline = time.monotonic() + seconds
        whole = ["follower"] * (NODES - 1) + ["leader"]
        for queue in queues:
            while (states := self._states(queue)) != whole:
                assert time.monotonic() < deadline, f"members of {queue}: {states}"
                time.sleep(0.2)

    def _states(self, queue: str) -> list[str]:
        status = self._run("rabbitmq-queues", "-q", "quorum_status", queue, "--formatter", "json")
        return sorted(member["Raft State"] for member in json.loads(status))

    def _start(self) -> None:
        cookie = self._home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        if self._user_id >= 0:
            os.chown(cookie, self._user_id, self._user_id)
        self._mapper = servers.start(
            "epmd",
            [
                str(machine.epmd_program()), "-port", self._epmd_environ["ERL_EPMD_PORT"],
                "-address", "127.0.0.1",
            ],
            self._logs / "cluster-epmd.log", folder=self._home, environ=self._epmd_environ, grace_seconds=2,
        )  # fmt: skip
        self.servers = [self._spawn(number) for number in range(NODES)]
        for server, url in zip(self.servers, self.urls, strict=True):
            server.wait_ready(lambda url=url: servers.rabbitmq_answers(url), seconds=120)  # type: ignore[misc]
        for number in range(1, NODES):
            self._run(
                "rabbitmqctl",
                "eval",
                f"rabbit:stop(), ok = rabbit_mnesia:join_cluster('{self.names[0]}', disc), rabbit:start().",
                number=number,
            )

    def _spawn(self, number: int) -> Server:
        folder = machine.give(self._home / str(number), self._user_id)
        config = folder / "rabbitmq.conf"
        config.write_text(
            _CONFIG.format(port=self._ports[number], password=self._password, ticktime=_TICKTIME_SECONDS)
        )
        (folder / "enabled_plugins").write_text("[].\n")
        for path in (config, folder / "enabled_plugins"):
            path.chmod(0o644)
        program = str(machine.rabbitmq_folder() / "rabbitmq-server")
        return servers.start(
            f"RabbitMQ {number + 1}", [program], self._logs / f"rabbitmq-{number + 1}.log", folder=folder,
            environ=self._environ(number),
        )  # fmt: skip

    def _environ(self, number: int) -> dict[str, str]:
        folder = self._home / str(number)
        return self._epmd_environ | {
            "HOME": str(self._home),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
            "RABBITMQ_NODENAME": self.names[number],
            "RABBITMQ_DIST_PORT": str(self._dist_ports[number]),
            "RUNNING_UNDER_SYSTEMD": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _run(self, program: str, *arguments: str, number: int = 0) -> str:
        identity: dict[str, Any] = (
            {"user": self._user_id, "group": self._user_id, "extra_groups": []} if self._user_id >= 0 else {}
        )
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(machine.rabbitmq_folder() / program), "-n", self.names[number], *arguments],
            cwd=self._home,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **self._environ(number)},
            capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS, **identity,
        )  # fmt: skip
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout
