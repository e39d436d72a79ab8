"""The ingestor counts each event once, and what it cannot count becomes a dead letter of its own."""

from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from deploy.local.api import wait_until
from deploy.local.traffic import Event, Router, encode
from tests.support.ingestion import Ingestion, metric, results
from tests.support.places import TestDatabase

NOW = datetime.now(UTC)
MESSAGE_LIMIT_BYTES = 1024 * 1024


def traffic(count: int, seed: int = 1) -> list[Event]:
    return Router(seed=seed, start=NOW - timedelta(hours=2), end=NOW).events(count)


def test_duplicates_and_conflicts_of_content_are_counted_wherever_they_meet(ingestion: Ingestion) -> None:
    one, two, three = traffic(3)
    moved = one | {"occurredAt": (NOW - timedelta(days=3)).isoformat()}
    process = ingestion.start()
    ingestion.publish([encode([one, one, two, two | {"latencyMs": two["latencyMs"] + 1}])])
    ingestion.wait_received(4)
    ingestion.publish([encode(moved), encode([two, three])])
    ingestion.wait_received(7)
    ingestion.publish([encode(one)])
    ingestion.wait_received(8)
    assert ingestion.observer.ingestion() == {
        "received": 8, "inserted": 3, "dedupe_conflicts": 5, "content_conflicts": 2,
    }  # fmt: skip
    assert results(process) == (3, 5, 0)
    assert metric(process, "analytics_ingestion_content_conflicts_total") == 2
    [(model, latency_ms)] = ingestion.observer.rows(
        f"SELECT model_id, latency_ms FROM analytics.usage_events WHERE event_id = '{two['eventId']}'"
    )
    assert (model, latency_ms) == (two["modelId"], two["latencyMs"])
    ingestion.assert_all_acknowledged(process)


def test_where_the_tokens_and_the_time_went_is_stored_and_absent_where_nobody_said_it(
    ingestion: Ingestion,
) -> None:
    full, bare, wrong = traffic(3)
    whole = {"inputTokens": 100, "outputTokens": 50, "latencyMs": 900}
    parts = {"cachedInputTokens": 60, "cacheWriteInputTokens": 40, "reasoningTokens": 50}
    names = {"provider": "self-hosted\t\\N", "operation": "chat", "apiKeyId": "key-1"}
    full |= whole | parts | names | {"timeToFirstTokenMs": 900}
    ingestion.start()
    ingestion.publish([encode([full, bare, wrong | whole | parts | {"cachedInputTokens": 61}])])
    ingestion.wait_received(2)
    rows = ingestion.observer.rows(
        "SELECT event_id::text, provider, operation, api_key_id, cached_input_tokens,"
        " cache_write_input_tokens, reasoning_tokens, time_to_first_token_ms FROM analytics.usage_events"
    )
    assert {row[0]: row[1:] for row in rows} == {
        full["eventId"]: ("self-hosted\t\\N", "chat", "key-1", 60, 40, 50, 900),
        bare["eventId"]: (None,) * 7,
    }
    ingestion.wait_dead_letters(1)


def test_two_ingestors_that_meet_the_same_events_at_once_store_each_once(ingestion: Ingestion) -> None:
    events = traffic(4_000)
    singles = [encode(event) for event in events]
    twice = [body for body in singles for _ in range(2)]  # neighbours go to different consumers
    ingestion.publish(twice[:400])
    processes = [ingestion.start(INGESTION_BATCH_SIZE="100") for _ in range(2)]
    ingestion.publish(twice[400:])
    ingestion.wait_received(8_000)
    assert ingestion.stored() == 4_000
    assert ingestion.observer.ingestion()["content_conflicts"] == 0
    wait_until(
        lambda: [sum(column) for column in zip(*map(results, processes), strict=True)] == [4_000, 4_000, 0],
        seconds=5,
        what="both processes' counts",
    )
    assert all(sum(results(process)) > 1_000 for process in processes), "both took part"
    ingestion.assert_all_acknowledged(*processes)


def test_each_bad_event_of_a_batch_is_a_dead_letter_of_its_own_and_the_good_ones_are_stored(
    ingestion: Ingestion,
) -> None:
    good = traffic(5)
    bad = [
        encode(good[0] | {"inputTokens": "12"}),
        encode({name: value for name, value in good[1].items() if name != "status"}),
        b"17",
    ]
    process = ingestion.start()
    ingestion.publish([b"[" + b",".join([encode(good[0]), *bad, *map(encode, good[1:])]) + b"]", b"{oops"])
    ingestion.wait_dead_letters(4)
    dead_letters = {each.body: each for each in ingestion.observer.dead_letters()}
    assert {body: each.reason for body, each in dead_letters.items()} == {
        bad[0]: "invalid-field", bad[1]: "missing-field", bad[2]: "not-an-object", b"{oops": "invalid-json",
    }  # fmt: skip
    assert "input" in dead_letters[bad[0]].detail
    assert all(datetime.fromisoformat(each.first_seen) >= NOW for each in dead_letters.values())
    assert ingestion.stored() == 5
    assert results(process) == (5, 0, 4)
    assert metric(process, "analytics_ingestion_dead_letters_total", reason="not-an-object") == 1
    ingestion.assert_all_acknowledged(process)


def test_a_message_of_one_mib_and_a_batch_of_a_thousand_are_taken_and_more_is_refused(
    ingestion: Ingestion,
) -> None:
    events = traffic(1_002)
    largest = encode(events[0]).ljust(MESSAGE_LIMIT_BYTES)
    thousand = encode(events[1:1_001])
    one_too_many = encode(events[1:1_002])
    process = ingestion.start(INGESTION_BATCH_SIZE="300")
    ingestion.publish([largest, thousand, largest + b" ", one_too_many])
    ingestion.wait_received(1_001)
    ingestion.wait_dead_letters(2)
    dead_letters = {each.reason: each.body for each in ingestion.observer.dead_letters()}
    assert dead_letters == {"message-too-large": largest + b" ", "batch-too-large": one_too_many}
    assert results(process) == (1_001, 0, 2)
    ingestion.assert_all_acknowledged(process)


def test_events_the_database_refuses_become_dead_letters_and_the_innocents_are_stored(
    ingestion: Ingestion, database: TestDatabase
) -> None:
    with psycopg2.connect(database.owner_url) as owner, owner.cursor() as cur:
        cur.execute("ALTER TABLE analytics.usage_events ADD CHECK (model_id <> 'refused')")
    owner.close()
    events = traffic(300)
    refused = [event | {"modelId": "refused"} for event in events[100:102]]
    ingestion.publish(map(encode, [*events[:100], *refused, refused[0], *events[102:]]))
    process = ingestion.start()
    ingestion.wait_received(298)
    ingestion.wait_dead_letters(3)
    dead_letters = ingestion.observer.dead_letters()
    assert {each.reason for each in dead_letters} == {"rejected-by-database"}
    assert sorted(each.body for each in dead_letters) == sorted(map(encode, [*refused, refused[0]]))
    assert all("check constraint" in each.detail for each in dead_letters)
    assert ingestion.stored() == 298
    wait_until(lambda: results(process) == (298, 0, 3), seconds=5, what="the counts")
    ingestion.assert_all_acknowledged(process)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM analytics.usage_events",
        "UPDATE analytics.event_keys SET content_digest = 0",
        "TRUNCATE analytics.ingestion_batches",
        "SELECT FROM analytics.hourly_rollups",
        "SELECT FROM analytics.audit_log",
        "CREATE TABLE analytics.more (n int)",
    ],
)
def test_the_ingestor_s_login_can_do_no_more_than_it_needs(database: TestDatabase, statement: str) -> None:
    raw = psycopg2.connect(database.ingestor_url)
    with raw.cursor() as cur, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cur.execute(statement)
    raw.close()
