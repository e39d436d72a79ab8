"""The closed parts of the ledger of dedupe keys, and their filters: which keys of a batch they have.

A key is looked for in a closed part when the part's filter says that it may be there, or when the filter is
not here yet. So the filters decide what a batch costs, never what is right.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from shared.errors import DatabaseUnavailable
from shared.key_filter import SLICE_BLOCKS, KeyFilter, Probe, hash_texts
from shared.postgres import Cursor, Database, copy_bytes
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
        self._loaded_once = False

    @property
    def numbers(self) -> list[int]:
        """The parts' numbers, in order."""
        return [part.number for part in self.parts]

    @property
    def filter_bytes(self) -> int:
        """Memory of the filters."""
        return sum(part.filter.size_bytes for part in self.parts if part.filter)

    def refresh(self, database: Database, *, if_due: bool = False) -> None:
        """Read the list, and the filters that are new. Raises DatabaseUnavailable without a list.

        if_due: not within some seconds of the last time, nor while another thread does it. At the start that
        thread is waited for: to look without filters costs more than to wait for them.
        """
        if not self._is_due(if_due):
            return
        if not self._refreshing.acquire(blocking=not if_due or not self._loaded_once):
            return
        try:
            if self._is_due(if_due):
                self._refresh(database)
        finally:
            self._refreshing.release()

    def _is_due(self, if_due: bool) -> bool:
        return not if_due or time.monotonic() - self._refreshed_at >= REFRESH_SECONDS

    def _refresh(self, database: Database) -> None:
        with database.query() as cur:
            cur.execute(_SQL["list_parts"])
            listed = cur.fetchall()
        filters = {part.number: part.filter for part in self.parts if part.filter}
        # Those that are gone make room first; those that are new are asked until their filter is here.
        self.parts = tuple(ClosedPart(number, filters.get(number)) for number, _ in listed)
        began = time.monotonic()
        for at, (number, blocks) in enumerate(listed):
            if time.monotonic() - began > _MAX_LOADING_SECONDS:
                break
            if blocks is not None and self.parts[at].filter is None:
                try:
                    loaded = ClosedPart(number, _load(database, number, blocks))
                except DatabaseUnavailable as error:
                    _log.warning("filter not loaded, trying again later", part=number, error=str(error))
                    self._refreshed_at = time.monotonic()
                    break
                self.parts = (*self.parts[:at], loaded, *self.parts[at + 1 :])
        else:
            self._refreshed_at = time.monotonic()
        self._loaded_once = True


def find_in(
    parts: tuple[ClosedPart, ...], cur: Cursor, event_ids: list[str], org_ids: list[str], counts: _Lookups
) -> dict[Key, int]:
    """Return the content digests of the first events under those keys that closed parts have.

    Raises TableMissing for a part that is gone: the list of parts has changed.
    """
    if not parts:
        return {}
    probe = Probe(hash_texts(event_ids))
    tables: list[str] = []
    table_of: list[str] = []
    places: list[int] = []
    passed = 0
    for part in parts:
        if part.filter is None:
            asked = list(range(len(event_ids)))
        else:
            asked = part.filter.may_have(probe).nonzero()[0].tolist()
            passed += len(asked)
        if asked:
            tables.append(f"event_keys_{part.number}")
            table_of += tables[-1:] * len(asked)
            places += asked
    if not places:
        return {}
    values = {
        "parts": table_of,
        "event_ids": [event_ids[at] for at in places],
        "org_ids": [org_ids[at] for at in places],
    }
    # One round trip, however many parts.
    cur.execute(find_in_tables(tables), {name: f"{{{','.join(texts)}}}" for name, texts in values.items()})
    known = {(event_id, org_id): digest for event_id, org_id, digest in cur.fetchall()}
    counts.lookups += len(places)
    counts.false_positives += max(0, passed - len(known))
    return known


def find_in_tables(tables: Iterable[str]) -> str:
    """Return the statement that looks for keys in closed parts, by the names of their tables."""
    looks = [with_tables(_SQL["look"], table=table).rstrip(";") for table in tables]
    return _SQL["find_in_parts"].replace("{looks}", " ".join(looks))


def _load(database: Database, number: int, blocks: int) -> KeyFilter | None:
    """Read a part's filter, a slice at a time. None if the part was dropped meanwhile."""
    began = time.monotonic()
    loading = KeyFilter(blocks)
    with database.transaction(time_limit_seconds=_LOAD_SECONDS) as cur:
        for number_of_slice in range(-(-blocks // SLICE_BLOCKS)):
            bits = copy_bytes(cur, _SQL["read_slice"], {"part": number, "slice": number_of_slice})
            if bits is None:
                return None
            loading.load_slice(number_of_slice, bits)
    _log.info(
        "filter loaded", part=number, bytes=loading.size_bytes, seconds=round(time.monotonic() - began, 3)
    )
    return loading
