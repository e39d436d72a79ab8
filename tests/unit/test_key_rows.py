"""A batch's dedupe keys as COPY takes them in binary."""

import struct
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.key_rows import key_rows
from shared.usage_event.decode import Event

RECEIVED_AT = datetime(2026, 11, 28, 12, 30, 1, 234567, tzinfo=UTC)
KEYS = st.dictionaries(
    st.tuples(st.uuids(allow_nil=True), st.uuids()), st.integers(-(2**63), 2**63 - 1), max_size=50
)


def read(data: bytes) -> list[tuple[UUID, UUID, int, datetime]]:
    """Read what PostgreSQL's documentation says of the binary format."""
    assert data.startswith(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    assert data.endswith(b"\xff\xff")
    rows = []
    for row in struct.iter_unpack(">hi16si16siqiq", data[19:-2]):
        columns, event_bytes, event_id, org_bytes, org_id, digest_bytes, digest, at_bytes, at = row
        assert (columns, event_bytes, org_bytes, digest_bytes, at_bytes) == (4, 16, 16, 8, 8)
        received_at = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
        rows.append((UUID(bytes=event_id), UUID(bytes=org_id), digest, received_at))
    return rows


@settings(deadline=None)  # a busy machine takes long for an example now and then
@given(keys=KEYS, stored=st.integers(0, 3))
def test_keys_are_written_in_their_order_each_with_its_own_digest_or_the_one_stored(
    keys: dict[tuple[UUID, UUID], int], stored: int
) -> None:
    events = [
        Event(str(event_id), str(org_id), RECEIVED_AT, "", digest)
        for (event_id, org_id), digest in keys.items()
    ]
    known = {event.key: -7 for event in events[:stored]}
    expected = [
        (UUID(event.event_id), UUID(event.org_id), known.get(event.key, event.content_digest), RECEIVED_AT)
        for event in sorted(events, key=lambda event: event.key)
    ]
    assert read(key_rows(events, known, RECEIVED_AT)) == expected


def test_the_time_of_receipt_is_an_instant_whatever_its_zone() -> None:
    event = Event(str(UUID(int=1)), str(UUID(int=2)), RECEIVED_AT, "", 3)
    elsewhere = RECEIVED_AT.astimezone(timezone(timedelta(hours=-9)))
    assert key_rows([event], {}, elsewhere) == key_rows([event], {}, RECEIVED_AT)
