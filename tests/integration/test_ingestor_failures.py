"""The ingestor when its servers fail: nothing is lost, nothing counts twice, and it recovers by itself."""

import re
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.stack import LocalStack, migrate
from deploy.local.traffic import Event, Router, encode
from shared.rabbitmq.topology import declare
from tests.support.fleet import Process
from tests.support.ingestion import Ingestion, hold_key, results, wait_until_waiting
from tests.support.places import TestBroker, TestDatabase, new_name
from tests.support.tcp_proxy import TcpProxy

NOW = datetime.now(UTC)


def traffic(count: int, seed: int = 1) -> list[Event]:
    return Router(seed=seed, start=NOW - timedelta(hours=2), end=NOW).events(count)


def singles(count: int) -> list[bytes]:
    return [encode(event) for event in traffic(count)]


def fault_of(process: Process, part: str) -> str:
    """Return the fault that /readyz names of a part; empty when the part is well."""
    found = re.search(rf'"{part}": "([^"]*)"', process.get("/readyz").data.decode())
    return found[1] if found else ""


def test_events_wait_while_the_database_is_away_and_memory_stays_bounded(
    ingestion: Ingestion, database: TestDatabase
) -> None:
    padding = {"padding": "x" * 600}
    large = [
        encode([event | {"metadata": padding} for event in traffic(1_000, seed=seed)]) for seed in range(40)
    ]
    assert 900_000 < len(large[0]) <= 1024 * 1024
    with TcpProxy.before(database.ingestor_url) as proxy:
        process = ingestion.start(INGESTOR_DATABASE_URL=proxy.url(database.ingestor_url))
        proxy.mode = "refuse"
        proxy.reset_connections()
        ingestion.publish(large)
        wait_until(lambda: bool(fault_of(process, "postgresql")), seconds=10, what="not ready")
        assert process.get("/healthz").status == 200
        wait_until(lambda: ingestion.waiting() >= 10, seconds=20, what="what it may not hold to go back")
        proxy.mode = "pass"
        ingestion.wait_received(40_000, seconds=60)
    wait_until(lambda: results(process) == (40_000, 0, 0), seconds=5, what="the counts")
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < 150_000
    ingestion.fleet.processes[0].kill()


@pytest.mark.parametrize("again", ["after the commit", "during the commit"])
def test_a_commit_whose_answer_is_lost_counts_once_and_as_accepted(
    ingestion: Ingestion, database: TestDatabase, again: str
) -> None:
    with psycopg2.connect(database.owner_url) as owner, owner.cursor() as cur:
        cur.execute(
            "CREATE FUNCTION public.slow_commit() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON analytics.ingestion_batches"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.slow_commit()"
        )
    owner.close()
    committing = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT;'"
        " AND state = 'active' AND application_name = 'ingestor'"
    )
    with TcpProxy.before(database.ingestor_url) as proxy:
        process = ingestion.start(INGESTOR_DATABASE_URL=proxy.url(database.ingestor_url))
        ingestion.publish(singles(100))
        wait_until(
            lambda: bool(ingestion.observer.rows(committing)), seconds=10, what="a commit", every_seconds=0.02
        )
        proxy.mode = "blackhole"
        if again == "after the commit":
            ingestion.wait_received(100)
            assert results(process) == (0, 0, 0)
        proxy.reset_connections()
        proxy.mode = "pass"
        wait_until(lambda: sum(results(process)) == 100, seconds=30, what="the batch to be known")
    assert results(process) == (100, 0, 0)
    assert ingestion.observer.ingestion()["received"] == 100
    assert ingestion.stored() == 100
    ingestion.fleet.processes[0].kill()


def test_a_connection_to_the_broker_that_is_reset_or_goes_silent_loses_nothing(
    ingestion: Ingestion, broker: TestBroker
) -> None:
    bodies = singles(6_000)
    bad = [b"{bad %d" % number for number in range(20)]
    with TcpProxy.before(broker.url) as proxy:
        process = ingestion.start(RABBITMQ_URL=proxy.url(broker.url), INGESTION_BATCH_SIZE="200")
        for at in range(0, 6_000, 2_000):
            ingestion.publish(bodies[at : at + 2_000] + bad[at // 1_000 :: 6])
            if at == 2_000:
                proxy.mode = "blackhole"
                wait_until(lambda: ingestion.stored() > 0, seconds=10, what="the first events")
            proxy.reset_connections()
            proxy.mode = "pass"
        ingestion.publish([body for number in (1, 3, 5) for body in bad[number::6]])
        wait_until(lambda: ingestion.stored() == 6_000, seconds=40, what="all events")
        wait_until(
            lambda: {each.body for each in ingestion.observer.dead_letters()} == set(bad),
            seconds=30,
            what="all dead letters",
            every_seconds=1,
        )
        wait_until(process.ready, seconds=10, what="ready again")
        ingestion.assert_all_acknowledged(process)
    sums = ingestion.observer.ingestion()
    assert sums["inserted"] == 6_000
    assert sums["content_conflicts"] == 0


def test_a_batch_that_commits_before_an_earlier_one_is_acknowledged_after_it(
    ingestion: Ingestion, database: TestDatabase, owner: connection
) -> None:
    events = traffic(200)
    with closing(psycopg2.connect(database.owner_url)) as other:
        hold_key(other, events[50])
        process = ingestion.start(INGESTION_BATCH_SIZE="100", INGESTION_BATCH_TIMEOUT="10s")
        ingestion.publish(map(encode, events[:100]))
        wait_until_waiting(owner)
        ingestion.publish(map(encode, events[100:]))
        wait_until(
            lambda: "batch committed" in process.log.read_text(), seconds=10, what="the second batch's commit"
        )
        assert ingestion.stored() == 100
        time.sleep(0.5)  # for an acknowledgement that must not be sent
        process.kill()
        wait_until(lambda: ingestion.waiting() == 200, seconds=10, what="both batches to come back")
        other.rollback()
    again = ingestion.start()
    ingestion.wait_received(300)
    assert ingestion.stored() == 200
    assert ingestion.observer.ingestion()["dedupe_conflicts"] == 100
    ingestion.assert_all_acknowledged(again)


def test_a_batch_of_all_that_the_broker_sends_does_not_wait_for_more(ingestion: Ingestion) -> None:
    ingestion.publish(singles(210))
    process = ingestion.start(INGESTION_BATCH_TIMEOUT="1h")
    ingestion.wait_received(200)  # as many as are asked for while their size is not known
    wait_until(lambda: ingestion.waiting() == 0, seconds=10, what="the others delivered")
    assert ingestion.stored() == 200
    assert process.stop() == 0, process.log_tail()


def test_a_queue_deleted_under_the_consumer_is_declared_again_and_used(ingestion: Ingestion) -> None:
    process = ingestion.start()
    ingestion.publish(singles(10))
    ingestion.wait_received(10)
    ingestion.channel.queue_delete(ingestion.topology.queue)
    wait_until(
        lambda: (
            "rabbitmq" not in process.get("/readyz").data.decode() and ingestion_consumers(ingestion) == 1
        ),
        seconds=20,
        what="a consumer on a new queue",
    )
    ingestion.publish([encode(event) for event in traffic(10, seed=2)])
    ingestion.wait_received(20)
    ingestion.assert_all_acknowledged(process)


def ingestion_consumers(ingestion: Ingestion) -> int:
    """Return how many consumers the queue of events has; 0 while there is no queue."""
    try:
        declared = ingestion.channel.connection.channel().queue_declare(
            ingestion.topology.queue, passive=True
        )
    except Exception:  # noqa: BLE001  the queue is not there
        return 0
    count: int = declared.method.consumer_count
    return count


def test_sigterm_writes_and_acknowledges_what_is_in_flight(ingestion: Ingestion) -> None:
    process = ingestion.start(INGESTION_BATCH_TIMEOUT="1h")
    ingestion.publish([*singles(50), b"{bad"])
    wait_until(lambda: ingestion.waiting() == 0, seconds=10, what="all delivered")
    assert ingestion.stored() == 0
    assert process.stop() == 0, process.log_tail()
    # What the broker had sent and the process had not read yet goes back to the queue.
    [in_flight] = re.findall(r'"events_in_flight": (\d+)', process.log.read_text())
    dead_letters = [each.body for each in ingestion.observer.dead_letters()]
    assert dead_letters == [b"{bad"][: len(dead_letters)]
    assert ingestion.stored() + len(dead_letters) == int(in_flight) > 0
    assert int(in_flight) + ingestion.waiting() == 51


def test_a_dead_letter_that_nobody_takes_keeps_its_message_unacknowledged(ingestion: Ingestion) -> None:
    process = ingestion.start()
    exchange = ingestion.topology.dead_letter_exchange
    ingestion.channel.exchange_delete(exchange)
    ingestion.channel.exchange_declare(exchange, exchange_type="fanout")  # not what the ingestor declares
    ingestion.publish([*singles(5), b"{bad"])
    wait_until(lambda: "dead letters wait" in process.log.read_text(), seconds=20, what="the refusal")
    ingestion.wait_received(5)
    assert results(process) == (5, 0, 0)
    assert process.get("/healthz").status == 200
    process.kill()
    wait_until(lambda: ingestion.waiting() > 0, seconds=10, what="what was not acknowledged")
    ingestion.channel.exchange_delete(exchange)
    declare(ingestion.channel, ingestion.topology)
    again = ingestion.start()
    ingestion.wait_dead_letters(1)
    assert results(again)[2] == 1
    assert ingestion.stored() == 5
    ingestion.assert_all_acknowledged(again)


def test_messages_beside_a_dead_letter_that_is_slow_to_confirm_are_acknowledged_without_it(
    ingestion: Ingestion,
) -> None:
    process = ingestion.start(INGESTION_BATCH_SIZE="10")
    exchange = ingestion.topology.dead_letter_exchange
    ingestion.channel.exchange_delete(exchange)
    ingestion.channel.exchange_declare(exchange, exchange_type="fanout")  # not what the ingestor declares
    good = singles(50)
    ingestion.publish([*good[:5], b"{bad 1", *good[5:25], b"{bad 2"])
    wait_until(lambda: "slow to confirm" in process.log.read_text(), seconds=20, what="a word on that")
    ingestion.publish([*good[25:], b"{bad 3"])  # what comes now does not wait either
    ingestion.wait_received(50)
    time.sleep(0.5)
    process.kill()
    wait_until(lambda: ingestion.waiting() == 3, seconds=10, what="the bad ones alone to come back")
    time.sleep(0.5)
    assert ingestion.waiting() == 3
    ingestion.channel.exchange_delete(exchange)
    declare(ingestion.channel, ingestion.topology)
    again = ingestion.start()
    ingestion.wait_dead_letters(3)
    assert ingestion.observer.ingestion()["received"] == 50
    ingestion.assert_all_acknowledged(again)


def test_without_a_schema_it_says_so_and_begins_once_there_is_one(
    ingestion: Ingestion, stack: LocalStack
) -> None:
    empty = new_name("_")
    url = stack.create_database(empty)
    try:
        process = ingestion.fleet.start(
            "ingestor", INGESTOR_DATABASE_URL=stack.process_urls(url)["INGESTOR_DATABASE_URL"]
        )
        ingestion.publish(singles(10))
        wait_until(
            lambda: "shared.migrate" in process.log.read_text(), seconds=20, what="a word on the schema"
        )
        assert process.get("/readyz").status == 503
        assert "shared.migrate" in fault_of(process, "postgresql")
        assert process.get("/healthz").status == 200
        migrate(url)
        process.wait_ready()
        wait_until(lambda: results(process) == (10, 0, 0), seconds=20, what="the events")
        ingestion.assert_all_acknowledged(process)
    finally:
        ingestion.fleet.close()
        stack.drop_database(empty)
