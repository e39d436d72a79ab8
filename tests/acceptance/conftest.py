"""What an acceptance test has: a fleet of real processes, a way to publish, an observer of the results."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.observer import Observer
from deploy.local.stack import LocalStack
from deploy.local.traffic import Publisher
from tests.support.fleet import Fleet, Process
from tests.support.places import TestBroker, TestDatabase
from tests.support.release_before import migrate, unpack_or_skip


@pytest.fixture
def fleet(environ: dict[str, str], tmp_path: Path) -> Iterator[Fleet]:
    """Starts processes of the Procfile; whatever still runs at the end is killed."""
    processes = Fleet(environ, tmp_path)
    yield processes
    processes.close()


@pytest.fixture
def gateway(fleet: Fleet) -> Process:
    """A gateway of two processes, ready."""
    [started] = fleet.start_ready("gateway", WEB_CONCURRENCY="2")
    return started


@pytest.fixture
def publisher(broker: TestBroker) -> Callable[[], Publisher]:
    """Opens a publisher to the test's own exchange."""
    return lambda: Publisher(broker.url, broker.exchange)


@pytest.fixture
def observer(database: TestDatabase, broker: TestBroker) -> Iterator[Observer]:
    """Reads the test's own database and queues."""
    opened = Observer(database.owner_url, broker.url, broker.queue, broker.dead_letter_queue)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before."""
    return unpack_or_skip(tmp_path_factory.mktemp("release_before"))


@pytest.fixture
def environ_before(
    stack: LocalStack, release_before: Path, broker: TestBroker, redis_url: str, s3: dict[str, str]
) -> Iterator[dict[str, str]]:
    """The settings of a fleet whose database has the schema of the release before."""
    name = f"upgrade_{os.getpid()}"
    url = stack.create_database(name)
    migrate(url, release_before)
    yield {"DATABASE_URL": url, "REDIS_URL": redis_url, **stack.process_urls(url), **broker.settings, **s3}
    stack.drop_database(name)
