"""A test's own place on the shared servers: its database, its queues, its part of Redis."""

import itertools
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

_numbers = itertools.count(1)
_REDIS_DATABASES_PER_WORKER = 64


def new_name(separator: str) -> str:
    """Return a name that no other test has."""
    return separator.join(("test", str(os.getpid()), str(next(_numbers))))


def redis_database(url: str) -> str:
    """Return the URL of a Redis database that no test side by side has."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    number = worker * _REDIS_DATABASES_PER_WORKER + next(_numbers) % _REDIS_DATABASES_PER_WORKER
    return urlsplit(url)._replace(path=f"/{number}").geturl()


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
    """Names of one test's exchanges and queues on the broker of the run."""

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
