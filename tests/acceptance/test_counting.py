"""Every confirmed event is counted once, whatever happens: real processes, real signals."""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from deploy.local.api import Api, wait_until
from deploy.local.observer import Observer
from deploy.local.traffic import Event, Expected, Publisher, Router, encode
from tests.support.fleet import Fleet

MakePublisher = Callable[[], Publisher]


def shuffled(events: list[Event], seed: int) -> list[Event]:
    """Return the events in another order."""
    copy = list(events)
    random.Random(seed).shuffle(copy)
    return copy


def bodies(events: list[Event]) -> list[bytes]:
    """Write events as producers do: every second hundred as one batch message, the others singly."""
    written: list[bytes] = []
    for at in range(0, len(events), 100):
        piece = events[at : at + 100]
        written.extend([encode(piece)] if (at // 100) % 2 else [encode(event) for event in piece])
    return written


def test_ten_thousand_events_published_three_times_through_two_ingestors_count_once(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    now = datetime.now(UTC)
    events = Router(seed=1, start=now - timedelta(hours=30), end=now).events(10_000)
    gateway, *_ = fleet.start_ready("gateway", "ingestor", "ingestor", "rollup_worker")
    with publisher() as out:
        for round_ in range(3):
            out.publish(bodies(shuffled(events, round_)))
    expected = Expected(events)
    observer.wait_until_settled(received=30_000)
    assert observer.ingestion() == {
        "received": 30_000,
        "inserted": 10_000,
        "dedupe_conflicts": 20_000,
        "content_conflicts": 0,
    }
    observer.assert_equal(expected)
    observer.assert_api_equal(Api(gateway.url), expected, now - timedelta(hours=30), now)
    assert observer.dead_letters() == []


def test_late_and_shuffled_events_land_in_the_hours_they_occurred_in(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    now = datetime.now(UTC)
    start = now - timedelta(days=3, hours=6)
    late = Router(seed=2, start=start, end=now - timedelta(days=3)).events(2_000)
    very_late = Router(seed=3, start=now - timedelta(days=399), end=now - timedelta(days=390)).events(500)
    fresh = Router(seed=4, start=now - timedelta(minutes=5), end=now).events(2_000)
    events = shuffled(late + very_late + fresh, 5)
    gateway, *_ = fleet.start_ready("gateway", "ingestor", "rollup_worker")
    with publisher() as out:
        out.publish(bodies(events))
    observer.wait_until_settled(received=4_500)
    observer.assert_equal(Expected(events))
    observer.assert_api_equal(Api(gateway.url), Expected(late), start, now - timedelta(days=3))
    observer.assert_hours_equal(events)


def test_five_hundred_malformed_events_reach_the_dead_letters_with_their_reasons_and_nothing_else_does(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    now = datetime.now(UTC)
    router = Router(seed=6, start=now - timedelta(hours=1), end=now)
    good = router.events(3_000)
    spoilers: list[tuple[str, Callable[[Event], bytes]]] = [
        ("invalid-json", lambda event: encode(event)[:-1]),
        ("not-an-object", lambda _: b'"an event"'),
        ("missing-field", lambda event: encode({k: v for k, v in event.items() if k != "latencyMs"})),
        ("invalid-field", lambda event: encode(event | {"inputTokens": Decimal("1000.7")})),
        ("occurred-at-too-old", lambda event: encode(event | {"occurredAt": "2019-01-01T00:00:00Z"})),
    ]
    malformed = [(reason, spoil(router.event())) for reason, spoil in spoilers for _ in range(100)]
    messages = [encode(event) for event in good[:2_500]] + [body for _, body in malformed]
    random.Random(7).shuffle(messages)
    # One bad element of a batch harms none of the others.
    bad_element = router.event() | {"status": "maybe"}
    messages.append(encode([*good[2_500:], bad_element]))
    fleet.start_ready("ingestor", "rollup_worker")
    with publisher() as out:
        out.publish(messages)
    observer.wait_until_settled(received=3_000)
    wait_until(lambda: observer.dead_letter_count() == 501, seconds=30, what="501 dead letters")
    dead_letters = observer.dead_letters()
    expected = sorted([*malformed, ("invalid-field", encode(bad_element))])
    assert sorted((each.reason, each.body) for each in dead_letters) == expected
    assert all(each.detail and each.first_seen for each in dead_letters)
    observer.assert_equal(Expected(good))


def test_kills_at_random_moments_under_load_lose_and_double_nothing(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    now = datetime.now(UTC)
    events = Router(seed=8, start=now - timedelta(days=1), end=now).events(30_000)
    rng = random.Random(9)
    processes = dict(
        zip(
            ("gateway", "ingestor", "rollup_worker"),
            fleet.start_ready("gateway", "ingestor", "rollup_worker"),
            strict=True,
        )
    )

    def publish() -> None:
        with publisher() as out:
            for at in range(0, len(events), 1_000):
                out.publish(bodies(events[at : at + 1_000]))
                time.sleep(0.2)

    producer = threading.Thread(target=publish)
    producer.start()
    kills = 0
    while producer.is_alive() or kills < 12:
        time.sleep(rng.uniform(0.1, 0.8))
        name = ("ingestor", "rollup_worker", "gateway")[kills % 3]
        processes[name].kill()
        processes[name] = fleet.start(name)
        kills += 1
        if kills % 3 == 0:
            for process in processes.values():
                process.wait_ready()
    producer.join()
    for process in processes.values():
        process.wait_ready()
    expected = Expected(events)
    observer.wait_until_settled(stored=len(expected))
    observer.assert_equal(expected)
    observer.assert_api_equal(Api(processes["gateway"].url), expected, now - timedelta(days=1), now)
    assert observer.dead_letters() == []


def test_a_terminated_process_finishes_what_it_began_and_exits_with_0(
    fleet: Fleet, publisher: MakePublisher, observer: Observer
) -> None:
    now = datetime.now(UTC)
    events = Router(seed=10, start=now - timedelta(hours=2), end=now).events(20_000)
    gateway, ingestor, worker = fleet.start_ready("gateway", "ingestor", "rollup_worker")
    with publisher() as out:
        out.publish(bodies(events[:10_000]))
        assert ingestor.stop() == 0, ingestor.log_tail()
        assert worker.stop() == 0, worker.log_tail()
        out.publish(bodies(events[10_000:]))
    assert gateway.stop() == 0, gateway.log_tail()
    fleet.start_ready("ingestor", "rollup_worker")
    observer.wait_until_settled(stored=20_000)
    observer.assert_equal(Expected(events))
    # Nothing was delivered twice: the ingestor acknowledged all that it had committed before it left.
    assert observer.ingestion()["dedupe_conflicts"] == 0
