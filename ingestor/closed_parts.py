"""The closed parts of the ledger of dedupe keys, and their filters: which keys of a batch they have.

A key is looked for in a closed part when the part's filter says that it may be there, or when the filter is
not here yet. So the filters decide what a batch costs, never what is right.
"""

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import structlog

from shared.key_filter import SLICE_BLOCKS, KeyFilter, Probe, hash_texts
from shared.postgres import Cursor, Database
from shared.statements import load_statements, with_tables

REFRESH_SECONDS = 5
_LOAD_SECONDS = 30
_MAX_LOADING_SECONDS = 10
"""After that the batches have their turn; filters that are still missing come after the next one."""

_SQL = load_statements("closed_parts.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("ingestor.closed_parts")

Key = tuple[str, str]
"""An event id and an organisation's id, as events have them."""


class _Lookups(Protocol):
    """What is counted of the looks into closed parts."""

    lookups: int
    false_positives: int


@dataclass(frozen=True)
class ClosedPart:
    """A part by its number. Without a filter it is asked for every key."""

    number: int
    filter: KeyFilter | None


class ClosedParts:
    """The list of closed parts that this process knows; its writers share it. For any thread."""

    def __init__(self) -> None:
        self.parts: tuple[ClosedPart, ...] = ()
        self._refreshing = threading.Lock()
        self._refreshed_at = float("-inf")

    @property
    def numbers(self) -> list[int]:
        """The parts' numbers, in order."""
        return [part.number for part in self.parts]

    @property
    def filter_bytes(self) -> int:
        """Memory of the filters."""
        return sum(part.filter.size_bytes for part in self.parts if part.filter)

    def refresh(self, database: Database, *, if_due: bool = False) -> None:
        """Read the list, and the filters that are new. Raises DatabaseUnavailable.

        if_due: not within some seconds of the last time, nor while another thread does it.
        """
        if if_due and time.monotonic() - self._refreshed_at < REFRESH_SECONDS:
            return
        if not self._refreshing.acquire(blocking=not if_due):
            return
        try:
            with database.query() as cur:
                cur.execute(_SQL["list_parts"])
                listed = cur.fetchall()
            filters = {part.number: part.filter for part in self.parts if part.filter}
            # Those that are gone make room first; those that are new are asked until their filter is here.
            self.parts = tuple(ClosedPart(number, filters.get(number)) for number, _ in listed)
            began = time.monotonic()
            for at, (number, blocks) in enumerate(listed):
                if time.monotonic() - began > _MAX_LOADING_SECONDS:
                    return
                if blocks is not None and self.parts[at].filter is None:
                    loaded = ClosedPart(number, _load(database, number, blocks))
                    self.parts = (*self.parts[:at], loaded, *self.parts[at + 1 :])
            self._refreshed_at = time.monotonic()
        finally:
            self._refreshing.release()


def find_in(
    parts: tuple[ClosedPart, ...], cur: Cursor, event_ids: list[str], org_ids: list[str], counts: _Lookups
) -> dict[Key, int]:
    """Return the content digests of the first events under those keys that closed parts have.

    Raises TableMissing for a part that is gone: the list of parts has changed.
    """
    if not parts:
        return {}
    probe = Probe(hash_texts(event_ids))
    questions: list[bytes] = []
    passed = 0
    for part in parts:
        places = range(len(event_ids)) if part.filter is None else part.filter.may_have(probe).nonzero()[0]
        if not len(places):
            continue
        asked = {
            "event_ids": f"{{{','.join([event_ids[at] for at in places])}}}",
            "org_ids": f"{{{','.join([org_ids[at] for at in places])}}}",
        }
        statement = with_tables(_SQL["find_in_part"], table=f"event_keys_{part.number}")
        questions.append(cur.mogrify(statement.rstrip(";"), asked))
        counts.lookups += len(places)
        passed += 0 if part.filter is None else len(places)
    if not questions:
        return {}
    cur.execute(b"\nUNION ALL\n".join(questions))  # one round trip, however many parts
    known = {(event_id, org_id): digest for event_id, org_id, digest in cur.fetchall()}
    counts.false_positives += max(0, passed - len(known))
    return known


def _load(database: Database, number: int, blocks: int) -> KeyFilter | None:
    """Read a part's filter, a slice at a time. None if the part was dropped meanwhile."""
    began = time.monotonic()
    loading = KeyFilter(blocks)
    with database.query(time_limit_seconds=_LOAD_SECONDS) as cur:
        for number_of_slice in range(-(-blocks // SLICE_BLOCKS)):
            cur.execute(_SQL["read_slice"], {"part": number, "slice": number_of_slice})
            row = cur.fetchone()
            if row is None:
                return None
            loading.load_slice(number_of_slice, row[0])
    _log.info(
        "filter loaded", part=number, bytes=loading.size_bytes, seconds=round(time.monotonic() - began, 3)
    )
    return loading
