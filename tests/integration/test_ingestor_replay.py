"""`python -m ingestor replay-dead-letters` puts dead letters back, and loses none of those it leaves."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.checkout import ROOT
from deploy.local.traffic import Router, encode
from shared.rabbitmq.properties import persistent
from tests.support.ingestion import Ingestion, replay
from tests.support.places import TestBroker

NOW = datetime.now(UTC)
LONG_AGO = "2026-01-02T03:04:05Z"


def put_dead_letters(ingestion: Ingestion, bodies: list[bytes], reason: str) -> None:
    """Put dead letters into their queue as an ingestor of long ago did."""
    headers = {"x-reason": reason, "x-detail": "it was so", "x-first-seen": LONG_AGO, "traceparent": "00-ab"}
    for body in bodies:
        ingestion.channel.basic_publish(
            ingestion.topology.dead_letter_exchange, "usage", body, persistent(headers=headers)
        )


def events(count: int) -> list[bytes]:
    router = Router(seed=1, start=NOW - timedelta(hours=1), end=NOW)
    return [encode(event) for event in router.events(count)]


def test_mended_dead_letters_are_stored_and_those_still_invalid_come_back_as_first_seen_then(
    ingestion: Ingestion,
) -> None:
    put_dead_letters(ingestion, events(5), "rejected-by-database")
    put_dead_letters(ingestion, [b"{bad"], "invalid-json")
    process = ingestion.start()
    ingestion.wait_dead_letters(6)
    done = replay(ingestion.broker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 replayed, 0 kept")
    ingestion.wait_received(5)
    ingestion.wait_dead_letters(1)
    [dead_letter] = ingestion.observer.dead_letters()
    assert (dead_letter.body, dead_letter.reason, dead_letter.first_seen) == (
        b"{bad",
        "invalid-json",
        LONG_AGO,
    )
    assert dead_letter.detail != "it was so"
    assert ingestion.stored() == 5
    ingestion.assert_all_acknowledged(process)


def test_limit_reason_and_dry_run_choose_what_is_moved_and_the_rest_stays(ingestion: Ingestion) -> None:
    put_dead_letters(ingestion, events(4), "rejected-by-database")
    put_dead_letters(ingestion, [b"{bad", b"{worse"], "invalid-json")
    ingestion.wait_dead_letters(6)

    shown = replay(ingestion.broker, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "6 replayed, 0 kept" in shown.stdout
    assert "dry run" in shown.stdout
    assert "4  rejected-by-database" in shown.stdout
    assert (ingestion.waiting(), ingestion.observer.dead_letter_count()) == (0, 6)

    limited = replay(ingestion.broker, "--limit", "3", "--reason", "rejected-by-database")
    assert limited.stdout.startswith("3 replayed"), limited.stderr
    assert (ingestion.waiting(), ingestion.observer.dead_letter_count()) == (3, 3)

    chosen = replay(ingestion.broker, "--reason", "invalid-json")
    assert chosen.stdout.startswith("2 replayed, 1 kept"), chosen.stderr
    assert (ingestion.waiting(), ingestion.observer.dead_letter_count()) == (5, 1)
    [left] = ingestion.observer.dead_letters()
    assert (left.reason, left.first_seen) == ("rejected-by-database", LONG_AGO)


def test_a_broker_that_is_away_is_told_in_a_sentence_with_exit_code_1(broker: TestBroker) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ingestor", "replay-dead-letters"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1:1/%2F"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RabbitMQ" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("limit", ["-1", "0", "x"])
def test_a_limit_that_is_no_count_is_refused(broker: TestBroker, limit: str) -> None:
    done = replay(broker, f"--limit={limit}")
    assert done.returncode == 2
    assert "--limit" in done.stderr


def test_many_dead_letters_that_stay_do_not_keep_the_command_from_those_behind_them(
    ingestion: Ingestion,
) -> None:
    put_dead_letters(ingestion, [b"{%d" % number for number in range(2_500)], "invalid-json")
    put_dead_letters(ingestion, events(3), "rejected-by-database")
    ingestion.wait_dead_letters(2_503)
    done = replay(ingestion.broker, "--reason", "rejected-by-database")
    assert done.stdout.startswith("3 replayed, 2500 kept"), done.stderr
    assert (ingestion.waiting(), ingestion.observer.dead_letter_count()) == (3, 2_500)


def test_all_by_pika_dead_letters_are_replayed_too(ingestion: Ingestion) -> None:
    put_dead_letters(ingestion, [*events(3), b""], "rejected-by-database")
    ingestion.wait_dead_letters(4)
    done = replay(ingestion.broker, RABBITMQ_READ_FRAMES="false")
    assert done.stdout.startswith("4 replayed, 0 kept"), done.stderr
    assert ingestion.waiting() == 4


def test_an_empty_dead_letter_queue_is_no_fault(ingestion: Ingestion) -> None:
    done = replay(ingestion.broker)
    assert (done.returncode, done.stdout.strip()) == (0, "0 replayed, 0 kept"), done.stderr


def test_a_dead_letter_queue_that_is_not_there_is_said_in_a_sentence(broker: TestBroker) -> None:
    done = replay(broker)
    assert done.returncode == 1
    assert "NOT_FOUND" in done.stderr
    assert "Traceback" not in done.stderr
