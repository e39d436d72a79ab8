"""What several integration tests have: the database as its owner, the test's own ingestors and exports."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg2.extensions import connection

from ingestor import closed_parts
from ingestor.store import BatchStore
from shared.postgres import Database
from tests.support.exports import Exports, open_exports
from tests.support.gateway_app import Gateway
from tests.support.ingestion import Ingestion
from tests.support.places import TestBroker, TestDatabase
from tests.support.seed import connect
from tests.support.stores import NewStore


@pytest.fixture
def owner(database: TestDatabase) -> Iterator[connection]:
    """The owner's connection to the test's database, in autocommit."""
    opened = connect(database.owner_url)
    yield opened
    opened.close()


@pytest.fixture
def worker(database: TestDatabase) -> Iterator[Database]:
    """The rollup worker's own connection."""
    opened = Database(database.rollup_worker_url, application_name="rollups")
    yield opened
    opened.close()


@pytest.fixture
def ingestion(
    environ: dict[str, str], database: TestDatabase, broker: TestBroker, tmp_path: Path
) -> Iterator[Ingestion]:
    """Queues, declared, and the ingestors the test starts."""
    opened = Ingestion(environ, database, broker, tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def exports(database: TestDatabase, s3: dict[str, str]) -> Iterator[Exports]:
    """A bucket, the rollups of the test's database, and the workers it starts."""
    with open_exports(database, s3) as opened:
        yield opened


@pytest.fixture
def fresh_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores read the list of parts only when they have to: when a batch finds it changed."""
    monkeypatch.setattr(closed_parts, "REFRESH_SECONDS", 3600)


@pytest.fixture
def new_store(database: TestDatabase) -> Iterator[NewStore]:
    """Makes stores under names of their own."""
    stores: list[BatchStore] = []

    def make() -> BatchStore:
        stores.append(BatchStore(database.ingestor_url, f"test:{len(stores)}"))
        stores[-1].check()
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture(scope="session")
def lone_gateway() -> Gateway:
    """A gateway for requests that it refuses or answers by itself: those need no server."""
    return Gateway.without_servers()
