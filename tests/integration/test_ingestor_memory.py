"""The ingestor's memory stays flat, whatever the size of a message and while dead letters have no place."""

from collections.abc import Iterator
from contextlib import contextmanager

from deploy.local.api import wait_until
from tests.support.ingestion import (
    Ingestion,
    assert_never_lost_its_broker,
    encoded_events,
    memory_kb,
    metric,
    replay,
    results,
)
from tests.support.raw_amqp import RawPublisher, properties, table, text

MIB = 1024 * 1024


def test_a_message_of_128_mib_becomes_a_dead_letter_and_memory_stays_flat(ingestion: Ingestion) -> None:
    process = ingestion.start()
    before_kb = memory_kb(process, "VmHWM")
    encoded = properties({"correlation_id": b"\xff", "headers": table([(b"h", text("kept"))])})
    largest = b" " * (128 * MIB)
    good = encoded_events(4_000, seed=7)
    with RawPublisher(ingestion.broker.url) as publisher:
        for number in range(4):
            for body in good[number::4]:
                publisher.publish(ingestion.topology.exchange, b"usage", encoded, body)
            publisher.publish(ingestion.topology.exchange, b"\xff" * 255, encoded, largest)
    wait_until(lambda: results(process) == (4_000, 0, 4), seconds=120, what="four large dead letters")
    assert_never_lost_its_broker(process)
    assert memory_kb(process, "VmHWM") < before_kb + 48 * 1024
    assert process.stop() == 0
    assert ingestion.waiting() == 0
    channel = ingestion.channel
    for _ in range(4):
        method, found, body = channel.basic_get(ingestion.topology.dead_letter_queue, auto_ack=True)
        assert found.headers["x-reason"] == "message-too-large"
        assert str(len(largest)) in found.headers["x-detail"]
        assert found.headers["h"] == "kept"
        assert method.routing_key == b"\xff" * 255
        assert body == largest


def test_replay_moves_what_has_no_room_in_memory(ingestion: Ingestion) -> None:
    process = ingestion.start()
    largest = b" " * (128 * MIB)
    with RawPublisher(ingestion.broker.url) as publisher:
        for body in (largest, *encoded_events(300, seed=11), largest):
            publisher.publish(ingestion.topology.dead_letter_exchange, b"usage", properties({}), body)
    done = replay(ingestion.broker, max_memory_bytes=260 * MIB)
    assert done.returncode == 0, done.stderr
    assert "302 replayed, 0 kept" in done.stdout
    wait_until(lambda: results(process) == (300, 0, 2), seconds=60, what="all of them")
    assert_never_lost_its_broker(process)


def test_oversized_messages_wait_for_a_dead_letter_queue_that_is_full(ingestion: Ingestion) -> None:
    process = ingestion.start()
    large = [b"%d" % number + b" " * 2 * MIB for number in range(6)]
    good = encoded_events(500, seed=8)
    with full_queue(ingestion):
        with RawPublisher(ingestion.broker.url) as publisher:
            for body in (*large, *good):
                publisher.publish(ingestion.topology.exchange, b"usage", properties({}), body)
        wait_until(lambda: results(process) == (500, 0, 0), seconds=30, what="the good events")
        wait_until(lambda: "refused an oversized" in process.log.read_text(), seconds=20, what="the refusal")
        assert process.popen.poll() is None
    wait_until(lambda: results(process) == (500, 0, 6), seconds=90, what="six dead letters")
    assert {each.body for each in ingestion.observer.dead_letters()} == set(large)
    assert process.stop() == 0
    assert ingestion.waiting() == 0


def test_while_a_dead_letter_is_unconfirmed_memory_stays_flat_and_the_process_says_so(
    ingestion: Ingestion,
) -> None:
    process = ingestion.start()
    good = encoded_events(60_000, seed=9)
    with full_queue(ingestion):
        ingestion.publish([b"{bad", *good[:20_000]])
        ingestion.wait_received(20_000, seconds=60)
        before_kb = memory_kb(process, "VmRSS")
        ingestion.publish(good[20_000:])
        ingestion.wait_received(60_000, seconds=100)
        assert memory_kb(process, "VmRSS") < before_kb + 12 * 1024  # 60 MB were taken once
        readyz = "/readyz"
        wait_until(lambda: b"dead_letters" in process.get(readyz).data, seconds=20, what="not ready")
        assert b"full" in process.get(readyz).data
        assert process.get("/healthz").status == 200
        assert metric(process, "analytics_ingestion_dead_letters_unconfirmed") == 1
        assert results(process) == (60_000, 0, 0)
    wait_until(lambda: results(process) == (60_000, 0, 1), seconds=30, what="the dead letter")
    wait_until(process.ready, seconds=10, what="ready again")
    ingestion.assert_all_acknowledged(process)


@contextmanager
def full_queue(ingestion: Ingestion) -> Iterator[None]:
    """Bind a queue to the dead-letter exchange that is full, so that RabbitMQ refuses dead letters."""
    name = f"{ingestion.topology.dead_letter_queue}.full"
    limits = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    ingestion.channel.queue_declare(name, durable=True, arguments=limits)
    for _ in range(3):
        ingestion.channel.basic_publish("", name, b"here before")
    wait_until(lambda: ingestion.waiting(name) > 0, seconds=10, what="a full queue")
    ingestion.channel.queue_bind(name, ingestion.topology.dead_letter_exchange, "#")
    yield
    ingestion.channel.queue_delete(name)
