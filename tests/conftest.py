"""Fixtures: the servers once a run, and in them a place of its own for each test.

`stack` starts the servers. `database` is a migrated database cloned from a template, `broker` names a
topology of its own, `redis_url` an empty Redis, `s3` a bucket name of its own. `environ` holds the
settings of them all, ready for a process. A test marked `alone` has the machine to itself.
"""

import os
import random
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
import redis
from xdist.scheduler import LoadFileScheduling, Scheduling

from deploy.local import env_file, machine
from deploy.local.stack import LocalStack
from tests.support import shared_stack
from tests.support.failures import logs_of
from tests.support.places import TestBroker, TestDatabase, new_name, redis_database
from tests.support.shared_stack import TEMPLATE, SharedStack
from tests.support.turns import turn

_OWNED = pytest.StashKey[SharedStack]()
_HOME = pytest.StashKey[Path]()
_CONSOLE = "tests/console"
_ALONE = "alone"


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the servers that the workers of this run share, or learn where they are."""
    # No test is meant for the servers of a local stack whose settings somebody has sourced.
    env_file.forget_earlier_stack(os.environ)
    if (given := getattr(config, "workerinput", None)) is not None:
        config.stash[_HOME] = Path(given["stack_home"])
        place = int(given["workerid"].removeprefix("gw")) + random.random() / 4
        machine.begin_ports_at(place / given["workercount"])
    else:
        config.stash[_OWNED] = SharedStack()
        config.stash[_HOME] = config.stash[_OWNED].home


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of xdist the servers' addresses."""
    node.workerinput["stack_home"] = str(node.config.stash[_HOME])


class _FilesTogether(LoadFileScheduling):  # type: ignore[misc]  # xdist tells no types
    """Gives each file to one worker, and the files that look at the console to the same one.

    Those share a fleet with known data and a Chromium, whose start takes longer than most of them. The tests
    of a file that have the machine to themselves are given apart from its others.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if _ALONE in nodeid.partition("[")[2].removesuffix("]").split("-"):
            return f"{file}[{_ALONE}]"
        return _CONSOLE if file.startswith(f"{_CONSOLE}/") and not file.endswith("test_build.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Return how the tests are shared out among the workers; None for xdist's own ways."""
    return _FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Say in its id that a test has the machine to itself: whoever shares out the tests sees nothing else."""
    if metafunc.definition.get_closest_marker(_ALONE):
        metafunc.fixturenames.append(_ALONE)
        metafunc.parametrize(_ALONE, [None], ids=[_ALONE])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long tests to the workers first, so that none is left with one at the end.

    For a test that has the machine to itself all workers wait until those under way have ended. So such
    tests come when the long ones are done, beside the unit tests.
    """
    if not hasattr(config, "workerinput"):
        return
    folders = [
        config.rootpath / "tests" / name for name in ("drills", "console", "acceptance", "integration")
    ]
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    alone = {item for item in items if item.get_closest_marker(_ALONE)}

    def place(item: pytest.Item) -> tuple[int, int]:
        ranks = [at for at, folder in enumerate(folders) if folder in item.path.parents]
        return len(folders) if item in alone else ranks[0] if ranks else len(folders) + 1, files[item.path]

    items.sort(key=place)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers."""
    if (owned := config.stash.get(_OWNED, None)) is not None:
        owned.close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print which servers the tests ran against."""
    if used := config.stash[_OWNED].used:
        terminalreporter.write_line(f"ran against {used}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the test's turn: beside others, or alone."""
    with turn(item.config.stash[_HOME], alone=item.get_closest_marker(_ALONE) is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of what a failed test ran."""
    report = yield
    if report.failed:
        report.sections += logs_of(item, item.config.stash[_HOME] / "logs" / "postgres.log")
    return report


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> LocalStack:
    """The servers of the run: local ones in a private folder, or containers (TEST_SERVERS)."""
    return shared_stack.use(request.config.stash[_HOME])


@pytest.fixture
def database(stack: LocalStack) -> Iterator[TestDatabase]:
    """A migrated database of the test's own."""
    name = new_name("_")
    url = stack.create_database(name, TEMPLATE)
    yield TestDatabase(url, stack.process_urls(url))
    stack.drop_database(name)


@pytest.fixture
def broker(stack: LocalStack) -> Iterator[TestBroker]:
    """Exchanges and queues of the test's own; the ingestor declares them, this removes them."""
    base = new_name(".")
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
    """An empty Redis database of the test's own."""
    url = redis_database(stack.settings["REDIS_URL"])
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def s3(stack: LocalStack) -> dict[str, str]:
    """The S3 settings with a bucket name of the test's own; whoever needs the bucket creates it."""
    names = ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SECURE")
    return {name: stack.settings[name] for name in names} | {"S3_BUCKET": new_name("-")}


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
