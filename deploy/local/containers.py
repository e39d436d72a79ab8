"""The same servers run by a Docker engine, through testcontainers.

TEST_SERVERS chooses what the tests use: `local`, `containers`, or `auto` (the default): containers
where an engine answers and has the images or can pull them, else local servers.
"""

import contextlib
import gc
import os
import secrets
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer

from deploy.local import servers
from deploy.local.machine import StackError

IMAGES = {
    "PostgreSQL": "timescale/timescaledb:2.29.2-pg18",
    "RabbitMQ": "rabbitmq:4.1.4",
    "Redis": "valkey/valkey:9.1.1",
    "S3": "chrislusf/seaweedfs:4.48",
}

_SILENCE_SECONDS = 5
"""How long the engine may write nothing, also between two lines about a pull's progress."""


@dataclass
class ContainerServer:
    """A server in a container."""

    name: str
    container: DockerContainer
    settings: dict[str, str] = field(default_factory=dict)

    def wait_ready(self, ready: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until it answers. Raises StackError with its log's end when it does not."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.container.reload()
            if self.container.status != "running" or time.monotonic() > deadline:
                tail = b"".join(self.container.get_logs())[-2000:].decode(errors="replace")
                self.stop()
                raise StackError(f"{self.name} did not start in its container; the end of its log:\n{tail}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Remove the container and its data."""
        self.container.stop()


def choose() -> tuple[bool, str]:
    """Return whether to use containers, and that choice in words.

    Raises StackError when TEST_SERVERS asks for containers that cannot be had, or for something unknown.
    """
    wanted = os.environ.get("TEST_SERVERS", "auto")
    if wanted not in {"auto", "local", "containers"}:
        raise StackError(f"TEST_SERVERS is {wanted!r}; it may be auto, local or containers")
    if wanted == "local":
        return False, "local servers"
    obstacle = _obstacle()
    if obstacle is None:
        return True, "servers in containers"
    if wanted == "containers":
        raise StackError(f"no containers: {obstacle}")
    return False, f"local servers ({obstacle})"


def _engine() -> docker.DockerClient | None:
    with warnings.catch_warnings():
        # The client leaves its socket to the garbage collector when nobody answers.
        warnings.simplefilter("ignore", ResourceWarning)
        with contextlib.suppress(DockerException):
            return docker.from_env(timeout=_SILENCE_SECONDS)
        gc.collect()
    return None


def _obstacle() -> str | None:
    """Return why containers cannot be used, or None when they can. Pulls the images that are missing."""
    engine = _engine()
    if engine is None:
        return "no Docker engine answers"
    reaper = [] if testcontainers_config.ryuk_disabled else [testcontainers_config.ryuk_image]
    with contextlib.closing(engine):
        for image in [*IMAGES.values(), *reaper]:
            try:
                with contextlib.suppress(ImageNotFound):
                    engine.images.get(image)
                    continue
                for _ in engine.api.pull(image, stream=True):
                    pass
                engine.images.get(image)
            except (DockerException, RequestException):
                return f"the image {image} cannot be pulled"
    return None


def starts() -> dict[str, Callable[[], Sequence[ContainerServer]]]:
    """Return what starts each server, by the setting that makes it unnecessary."""
    return {
        "DATABASE_URL": lambda: [_start_postgres()],
        "RABBITMQ_URL": lambda: [_start_rabbitmq()],
        "REDIS_URL": lambda: [_start_valkey()],
        "S3_ENDPOINT": lambda: [_start_seaweedfs()],
    }


def _run(name: str, port: int, command: Sequence[str] = (), **environ: str) -> tuple[ContainerServer, str]:
    """Start a container; return it with the address of its port."""
    container = DockerContainer(IMAGES[name]).with_envs(**environ)
    client = container.get_docker_client()
    here = client.get_connection_mode() is ConnectionMode.docker_host and client.host() == "localhost"
    ports: dict[str, Any] = container.ports
    ports[str(port)] = ("127.0.0.1", None) if here else None  # else published to the whole network
    if command:
        container.with_command(list(command))
    container.start()
    address = f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
    return ContainerServer(name, container), address.replace("localhost", "127.0.0.1")


def _start_postgres() -> ContainerServer:
    password = secrets.token_urlsafe(18)
    options = (
        "timezone=UTC",
        "max_connections=220",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
    )
    command = ["postgres", *(word for option in options for word in ("-c", option))]
    server, address = _run("PostgreSQL", 5432, command, POSTGRES_PASSWORD=password)
    url = f"postgresql://postgres:{password}@{address}"
    server.settings = {"ADMIN_DATABASE_URL": url}
    server.wait_ready(lambda: servers.postgres_answers(url))
    return server


def _start_rabbitmq() -> ContainerServer:
    password = secrets.token_urlsafe(18)
    server, address = _run("RabbitMQ", 5672, RABBITMQ_DEFAULT_USER="fleet", RABBITMQ_DEFAULT_PASS=password)
    url = f"amqp://fleet:{password}@{address}/%2F"
    server.settings = {"RABBITMQ_URL": url}
    server.wait_ready(lambda: servers.rabbitmq_answers(url))
    return server


def _start_valkey() -> ContainerServer:
    password = secrets.token_urlsafe(18)
    command = ["valkey-server", "--requirepass", password, "--save", "", "--databases", "1024"]
    server, address = _run("Redis", 6379, command)
    url = f"redis://:{password}@{address}/0"
    server.settings = {"REDIS_URL": url}
    server.wait_ready(lambda: servers.redis_answers(url))
    return server


def _start_seaweedfs() -> ContainerServer:
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    command = ["mini", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-s3.port=8333"]
    server, endpoint = _run(
        "S3", 8333, [*command, *servers.SEAWEEDFS_OPTIONS],
        AWS_ACCESS_KEY_ID=access_key, AWS_SECRET_ACCESS_KEY=secret_key,
    )  # fmt: skip
    server.settings = {
        "S3_ENDPOINT": endpoint, "S3_SECURE": "false",
        "S3_ACCESS_KEY": access_key, "S3_SECRET_KEY": secret_key,
    }  # fmt: skip
    server.wait_ready(lambda: servers.s3_answers(endpoint))
    return server
