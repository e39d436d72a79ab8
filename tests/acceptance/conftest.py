"""What an acceptance test has: a fleet of real processes, a way to publish, and the books to check."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.books import Books
from deploy.local.traffic import Publisher
from tests.support.fleet import Fleet
from tests.support.places import TestBroker, TestDatabase


@pytest.fixture
def fleet(environ: dict[str, str], tmp_path: Path) -> Iterator[Fleet]:
    """Starts processes of the Procfile; whatever still runs at the end is killed."""
    processes = Fleet(environ, tmp_path)
    yield processes
    processes.close()


@pytest.fixture
def publisher(broker: TestBroker) -> Callable[[], Publisher]:
    """Opens a publisher to the test's own exchange."""
    return lambda: Publisher(broker.url, broker.exchange)


@pytest.fixture
def books(database: TestDatabase, broker: TestBroker) -> Iterator[Books]:
    """Reads the test's own database and queues."""
    opened = Books(database.owner_url, broker.url, broker.queue, broker.dead_letter_queue)
    yield opened
    opened.close()
