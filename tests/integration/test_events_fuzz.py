"""Events and bytes of a grammar: all that judge them agree, and agree with a plain reading of the contract.

`POST /events/validate`, the ingestor's batches, the quick look at an event and the thorough one.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from ingestor.batch import Batch, Message
from shared.rabbitmq.frames import Delivery
from shared.usage_event import decode
from shared.usage_event.decode import Event, decode_event, split_message
from shared.usage_event.diagnose import examine
from shared.usage_event.schema import COPY_COLUMNS, InvalidEvent, Reason
from tests.support.event_reading import NOT_JSON, Faults, Stored, read_event, snake
from tests.support.event_texts import NOW, ODD_ELEMENTS, batches, events, large, mangled
from tests.support.fuzz import EXAMPLES, SEED, TIMEOUT_SECONDS, fuzzed
from tests.support.gateway_app import Gateway, read
from tests.support.ingestion import Ingestion
from tests.unit.test_events import from_copy

ACTOR = {"X-Actor-Subject": "fuzz", "X-Actor-Roles": "viewer"}
pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)

HOUR = timedelta(hours=1)
gateway = Gateway.without_servers(clock=lambda: NOW)


def meaning(event: Event) -> Stored:
    """Return what is stored of an event, as the plain reading says it."""
    columns: dict[str, Any] = dict(zip(COPY_COLUMNS, from_copy(event.copy_line), strict=True))
    assert (event.event_id, event.org_id) == (columns["event_id"], columns["org_id"])
    at = datetime.fromisoformat(columns["occurred_at"])
    assert at == event.occurred_at
    whole, _, fraction = columns["cost_estimate_cents"].partition(".")
    columns["occurred_at"] = at
    columns["cost_estimate_cents"] = int(whole + fraction.ljust(10, "0"))
    columns["metadata"] = json.loads(columns["metadata"])
    return {
        name: int(text) if text is not None and re.search("_ms$|_tokens$", name) else text
        for name, text in columns.items()
    }


def judged(raw: bytes, now: datetime) -> Event | Faults:
    """Return the event or its faults, on which the quick look and the thorough one must agree."""

    def verdict(decoder: Callable[[], Event]) -> Event | Faults:
        try:
            return decoder()
        except InvalidEvent as refused:
            return [(fault.field, str(fault.reason)) for fault in refused.faults]

    found = verdict(lambda: decode_event(raw, now))
    assert found == verdict(lambda: decode._event(examine(raw, now), now, escapes=True))
    return found


def check_element(raw: bytes, now: datetime = NOW) -> Event | Faults:
    """Hold the verdict on an event against the plain reading."""
    found, wanted = judged(raw, now), read_event(raw, now)
    if wanted == NOT_JSON:
        assert not isinstance(found, Event)
    elif isinstance(wanted, dict):
        assert isinstance(found, Event), found
        assert meaning(found) == {snake(name): value for name, value in wanted.items()}
    else:
        assert found == wanted
    return found


def check_message(body: bytes, elements: list[bytes] | None = None) -> None:
    """Hold all who judge a message against one another. elements: what it must be cut into."""
    verdicts: list[Event | Faults]
    place = "[{}]" if body.lstrip(b" \t\r\n").startswith(b"[") else ""
    try:
        pieces = split_message(body)
        verdicts = [check_element(piece) for piece in pieces]
    except InvalidEvent as refused:
        pieces, place = [body], ""
        verdicts = [[(fault.field, str(fault.reason)) for fault in refused.faults]]
    assert elements is None or pieces == elements
    check_ingestor(body, pieces, verdicts)
    check_validate(body, verdicts, place)


def check_ingestor(body: bytes, pieces: list[bytes], verdicts: list[Event | Faults]) -> None:
    """The ingestor stores what is valid; the rest are dead letters, each with its first reason."""
    batch = Batch(NOW)
    batch.add(Message.of(Delivery(1, b"usage", b"", body)))
    valid = [verdict for verdict in verdicts if isinstance(verdict, Event)]
    rows = [source.event for row in batch.rows.values() for source in row.sources]
    assert sorted(rows, key=lambda event: event.copy_line) == sorted(valid, key=lambda event: event.copy_line)
    assert batch.rows.keys() == {event.key for event in valid}
    assert [(letter.body, letter.reason) for letter in batch.dead_letters] == [
        (piece, verdict[0][1])
        for piece, verdict in zip(pieces, verdicts, strict=True)
        if not isinstance(verdict, Event)
    ]
    assert all(letter.detail.isascii() and letter.detail.isprintable() for letter in batch.dead_letters)


def check_validate(body: bytes, verdicts: list[Event | Faults], place: str) -> None:
    """`POST /events/validate` names the same faults in the same order, a thousand at most."""
    answer = gateway.call("POST", "/analytics/v1/events/validate", ACTOR, body=body)
    fields = [
        ".".join(part for part in (place.format(at), field) if part)
        for at, verdict in enumerate(verdicts)
        if not isinstance(verdict, Event)
        for field, _ in verdict
    ]
    assert answer.status_code == (400 if fields else 204)
    if fields:
        assert [error["field"] for error in read(answer)["errors"]] == fields[:1000]


@seed(SEED)
@fuzzed(50)
@given(events(NOW))
def test_an_event_is_judged_alike_by_all_who_judge(body: bytes) -> None:
    check_message(body, [body])


@seed(SEED)
@fuzzed(20)
@given(batches(NOW))
def test_each_element_of_a_batch_is_judged_alone(batch: tuple[bytes, list[bytes]]) -> None:
    body, elements = batch
    # One that leaves a quote or a bracket open may take others with it.
    closed = all(raw in ODD_ELEMENTS or read_event(raw, NOW) != NOT_JSON for raw in elements)
    check_message(body, elements if closed else None)


@seed(SEED)
@fuzzed(50)
@given(mangled(NOW))
def test_malformed_bytes_are_judged_alike_by_all_who_judge(body: bytes) -> None:
    check_message(body)


@seed(SEED)
@fuzzed(2)
@given(large(NOW))
def test_a_message_about_as_large_as_it_may_be_is_judged_alike(body: bytes) -> None:
    check_message(body)


def test_the_grammar_makes_events_that_are_good_and_events_that_are_bad_in_every_way() -> None:
    """Otherwise the others would agree about little."""
    seen: Counter[str] = Counter()

    @seed(SEED)
    @fuzzed(50)
    @given(events(NOW))
    def count(raw: bytes) -> None:
        found = read_event(raw, NOW)
        seen.update(["accepted"] if isinstance(found, dict) else {reason for _, reason in found})

    count()
    assert seen["accepted"] > 10 * EXAMPLES
    assert seen.keys() >= {
        NOT_JSON[0][1],
        Reason.INVALID_FIELD,
        Reason.AMBIGUOUS_FIELD,
        Reason.MISSING_FIELD,
        Reason.OCCURRED_AT_IN_FUTURE,
        Reason.OCCURRED_AT_TOO_OLD,
    }, seen


def test_a_sample_goes_through_the_broker_and_is_stored_as_it_was_meant(ingestion: Ingestion) -> None:
    now = datetime.now(UTC)
    one = events(now, HOUR)
    bodies: list[bytes] = []

    @seed(SEED)
    @fuzzed(15)
    @given(st.one_of(one, batches(now, HOUR).map(itemgetter(0)), mangled(now, HOUR)))
    def sample(body: bytes) -> None:
        bodies.append(body)

    sample()
    valid: defaultdict[tuple[str, str], list[Stored]] = defaultdict(list)
    invalid: Counter[tuple[bytes, str]] = Counter()
    for body in bodies:
        try:
            pieces = split_message(body)
        except InvalidEvent as refused:
            invalid[body, refused.reason] += 1
            continue
        for piece in pieces:
            found = check_element(piece, now)
            if isinstance(found, Event):
                stored = read_event(piece, now)
                assert isinstance(stored, dict)
                valid[found.key].append({snake(name): value for name, value in stored.items()})
            else:
                invalid[piece, found[0][1]] += 1
    process = ingestion.start()
    ingestion.publish(bodies)
    ingestion.wait_received(sum(map(len, valid.values())))
    ingestion.wait_dead_letters(invalid.total())
    rows = ingestion.observer.rows(f"SELECT {', '.join(COPY_COLUMNS)} FROM analytics.usage_events")
    assert len(rows) == len(valid)
    for row in rows:
        columns = dict(zip(COPY_COLUMNS, row, strict=True))
        columns["cost_estimate_cents"] = int(columns["cost_estimate_cents"].scaleb(10))
        assert columns in valid[columns["event_id"], columns["org_id"]]
    letters = ingestion.observer.dead_letters()
    assert Counter((letter.body, letter.reason) for letter in letters) == invalid
    ingestion.assert_all_acknowledged(process)
