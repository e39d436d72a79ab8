"""Fixtures: the servers once a session, and in them a place of its own for each test.

`stack` starts the servers. `database` is a migrated database cloned from a template, `broker` names a
topology of its own, `redis_url` an empty Redis, `s3` a bucket name of its own. `environ` holds the
settings of them all, ready for a process.
"""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pika
import pytest
import redis

from deploy.local import containers, env_file, machine
from deploy.local.stack import LocalStack, migrate

_numbers = itertools.count(1)
_TEMPLATE = "template_analytics"
_SERVERS = pytest.StashKey[str]()


@dataclass(frozen=True)
class TestDatabase:
    """A database of one test: its owner's URL, and each process's own by setting name."""

    owner_url: str
    process_urls: dict[str, str]

    __test__ = False

    @property
    def ingestor_url(self) -> str:
        return self.process_urls["INGESTOR_DATABASE_URL"]

    @property
    def rollup_worker_url(self) -> str:
        return self.process_urls["ROLLUP_WORKER_DATABASE_URL"]

    @property
    def export_worker_url(self) -> str:
        return self.process_urls["EXPORT_WORKER_DATABASE_URL"]

    @property
    def gateway_url(self) -> str:
        return self.process_urls["GATEWAY_DATABASE_URL"]


@dataclass(frozen=True)
class TestBroker:
    """Names of one test's exchanges and queues on the session's broker."""

    url: str
    exchange: str
    queue: str
    dead_letter_exchange: str
    dead_letter_queue: str

    __test__ = False

    @property
    def settings(self) -> dict[str, str]:
        """The environment that makes a process use them."""
        return {
            "RABBITMQ_URL": self.url,
            "RABBITMQ_EXCHANGE": self.exchange,
            "RABBITMQ_QUEUE": self.queue,
            "RABBITMQ_DEAD_LETTER_EXCHANGE": self.dead_letter_exchange,
            "RABBITMQ_DEAD_LETTER_QUEUE": self.dead_letter_queue,
        }


def pytest_configure() -> None:
    """Forget the settings of a local stack that somebody has sourced: no test is meant for those servers."""
    env_file.forget_earlier_stack(os.environ)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Say which servers the tests ran against."""
    if used := config.stash.get(_SERVERS, None):
        terminalreporter.write_line(f"ran against {used}")


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[LocalStack]:
    """The servers, in a private folder of this session's own or in containers (TEST_SERVERS)."""
    in_containers, request.config.stash[_SERVERS] = containers.choose()
    home = machine.temporary_home("analytics-tests-")
    started = LocalStack(home, environ={}, in_containers=in_containers).start()
    try:
        migrate(started.create_database(_TEMPLATE))
        started.make_template(_TEMPLATE)
        started.create_logins()
        yield started
    finally:
        started.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database(stack: LocalStack) -> Iterator[TestDatabase]:
    """A migrated database of the test's own."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    url = stack.create_database(name, _TEMPLATE)
    yield TestDatabase(url, stack.process_urls(url))
    stack.drop_database(name)


@pytest.fixture
def broker(stack: LocalStack) -> Iterator[TestBroker]:
    """Exchanges and queues of the test's own; the ingestor declares them, this removes them."""
    base = f"test.{os.getpid()}.{next(_numbers)}"
    names = TestBroker(stack.settings["RABBITMQ_URL"], base, f"{base}.q", f"{base}.dlx", f"{base}.dlq")
    yield names
    connection = pika.BlockingConnection(pika.URLParameters(names.url))
    channel = connection.channel()
    for queue in (names.queue, names.dead_letter_queue):
        channel.queue_delete(queue)
    for exchange in (names.exchange, names.dead_letter_exchange):
        channel.exchange_delete(exchange)
    connection.close()


@pytest.fixture
def redis_url(stack: LocalStack) -> str:
    """An empty Redis."""
    url = stack.settings["REDIS_URL"]
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


@pytest.fixture
def s3(stack: LocalStack) -> dict[str, str]:
    """The S3 settings with a bucket name of the test's own; whoever needs the bucket creates it."""
    names = ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SECURE")
    return {name: stack.settings[name] for name in names} | {
        "S3_BUCKET": f"test-{os.getpid()}-{next(_numbers)}"
    }


@pytest.fixture
def environ(database: TestDatabase, broker: TestBroker, redis_url: str, s3: dict[str, str]) -> dict[str, str]:
    """The settings of every process of a test's own fleet."""
    return {
        "DATABASE_URL": database.owner_url,
        "REDIS_URL": redis_url,
        **database.process_urls,
        **broker.settings,
        **s3,
    }
