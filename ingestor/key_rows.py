"""The dedupe keys of a batch in COPY's binary format, which costs PostgreSQL less than text does."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from shared.usage_event.decode import Event

# The rows of copy_keys in sql/ingest.sql: how many columns there are, then each with its length.
_ROW = np.dtype(
    [
        ("columns", ">i2"),
        ("event_id_bytes", ">i4"),
        ("event_id", "V16"),
        ("org_id_bytes", ">i4"),
        ("org_id", "V16"),
        ("digest_bytes", ">i4"),
        ("digest", ">i8"),
        ("received_at_bytes", ">i4"),
        ("received_at", ">i8"),
    ]
)
_KEY = np.dtype([("event_id", "V16"), ("org_id", "V16")])
_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
_MICROSECOND = timedelta(microseconds=1)


def key_rows(events: Sequence[Event], digests: Mapping[tuple[str, str], int], received_at: datetime) -> bytes:
    """Return the events' keys in key order, each with its content digest.

    digests: of the first events under keys that have been stored before, in place of the events' own.
    """
    own = [event.content_digest for event in events]
    if digests:
        own = [digests.get(event.key, event.content_digest) for event in events]
    texts = "".join([f"{event.event_id}{event.org_id}" for event in events])
    keys = np.frombuffer(bytes.fromhex(texts.replace("-", "")), "S32")
    order = keys.argsort()  # compares bytes, as PostgreSQL compares UUIDs
    rows = np.empty(len(order), _ROW)
    rows["columns"] = 4
    rows["event_id_bytes"] = rows["org_id_bytes"] = 16
    rows["digest_bytes"] = rows["received_at_bytes"] = 8
    pairs = keys[order].view(_KEY)
    rows["event_id"], rows["org_id"] = pairs["event_id"], pairs["org_id"]
    rows["digest"] = np.array(own, np.int64)[order]
    rows["received_at"] = (received_at - _EPOCH) // _MICROSECOND
    return _HEAD + rows.tobytes() + _END
