"""Keeps the ledger of dedupe keys in parts: closes the open one, makes filters, drops old parts.

Each step is a transaction of its own, and may be killed: closing and dropping are done or not, and a filter
goes on after the last slices that were stored. Of several workers each does what no other is at.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import numpy as np
import structlog

from shared.clock import Clock
from shared.key_filter import SLICE_BLOCKS, KeyFilter, blocks_for, hash_pairs
from shared.metrics import RollupMetrics
from shared.postgres import Cursor, Database, copy_out
from shared.process import Stop
from shared.settings import RollupWorkerSettings
from shared.statements import load_statements, with_tables

_MAX_AGE = timedelta(days=1)
_WINDOW_PARTS = 8
"""Into how many parts a window is divided at least, however few its events: keys stay for as much longer."""

_KEYS_A_PAGE = 107
_PAGES_AT_ONCE = 512
_MAX_SLICES = 32
"""Slices made in one pass over a part: this many MiB in memory. A part of 25 million keys takes one pass."""

_STEP_SECONDS = 1_800
_MERGED_PARTS = 8
# COPY in binary begins with a signature and two numbers, each row with a count of columns and a length.
_HEAD_BYTES = 19
_ROW = np.dtype([("head", "V6"), ("high", ">u8"), ("low", ">u8")])

_SQL = load_statements("closed_parts.sql")
_log: structlog.stdlib.BoundLogger = structlog.get_logger("key_parts")


class KeyParts:
    """The work on the ledger's parts. For one thread.

    clock: tells what is old; the database's unless told, since a worker's that is ahead would drop too much.
    """

    def __init__(
        self,
        database: Database,
        settings: RollupWorkerSettings,
        metrics: RollupMetrics,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._max_keys = settings.dedupe_part_keys
        self._merged_keys = _MERGED_PARTS // 2 * self._max_keys
        self._window = settings.dedupe_window
        self._metrics = metrics
        self._as_of: Callable[[], datetime | None] = clock or (lambda: None)

    def run(self, stop: Stop) -> None:
        """Do what there is to do. Raises DatabaseUnavailable."""
        try:
            self.close()
        finally:  # whoever is in the way of closing is not in the way of the rest
            self.make_filter(stop)
            self.replace()
            self.drop(stop)
            self.merge()
            self._measure()

    def close(self) -> int | None:
        """Close the open part if it is time; return its number.

        Raises DatabaseBusy where batches or a reader are in the way.
        """
        values = {
            "max_keys": self._max_keys,
            "max_age": min(_MAX_AGE, self._window / _WINDOW_PARTS),
            "as_of": self._as_of(),
        }
        with self._database.transaction() as cur:
            cur.execute(_SQL["close_part"], values)
            [(part,)] = cur.fetchall()
        if part is None:
            return None
        _log.info("part of the ledger closed", part=part)
        return int(part)

    def drop(self, stop: Stop) -> None:
        """Drop the parts whose keys are all past their window, one by one."""
        values = {"as_of": self._as_of(), "window": self._window}
        while not stop:
            with self._database.transaction() as cur:
                cur.execute(_SQL["drop_part"], values)
                [(keys,)] = cur.fetchall()
            if keys is None:
                break
            self._metrics.pruned_keys.inc(keys)
            _log.info("part of the ledger dropped", keys=keys)

    def merge(self) -> bool:
        """Do the next step of a merge, if there are parts to be merged; return whether it did."""
        with self._database.query() as cur:
            cur.execute(_SQL["list_small_parts"], {"max_keys": self._merged_keys})
            chosen = _choose(cur.fetchall(), self._window / _WINDOW_PARTS)
        began = time.monotonic()
        with self._database.transaction(time_limit_seconds=_STEP_SECONDS) as cur:
            cur.execute(_SQL["allow_time"])
            cur.execute(_SQL["merge_parts"], {"parts": chosen})
            [(did,)] = cur.fetchall()
        if did:
            _log.info("parts of the ledger being merged", seconds=round(time.monotonic() - began, 1))
        return bool(did)

    def replace(self) -> None:
        """Put a merged part in the place of its sources. Raises DatabaseBusy where a reader is in the way."""
        with self._database.transaction() as cur:
            cur.execute(_SQL["replace_parts"])
            [(part,)] = cur.fetchall()
        if part is not None:
            _log.info("parts of the ledger merged", part=part)

    def make_filter(self, stop: Stop) -> bool:
        """Make some slices of a filter that is missing, if one is; return whether it did."""
        began = time.monotonic()
        with self._database.transaction(time_limit_seconds=_STEP_SECONDS) as cur:
            cur.execute(_SQL["claim_part"])
            row = cur.fetchone()
            if row is None:
                return False
            part, blocks, done, pages = row
            about = pages * _KEYS_A_PAGE
            blocks = blocks or blocks_for(about, is_small=about < self._merged_keys)
            slices = -(-blocks // SLICE_BLOCKS)
            count = min(_MAX_SLICES, slices - done)
            first = done * SLICE_BLOCKS
            making = KeyFilter(blocks, first, min(count * SLICE_BLOCKS, blocks - first))
            keys = _add_part(cur, making, f"event_keys_{part}", pages, stop)
            if keys is None:
                return False
            for number in range(count):
                slice_of = {"part": part, "slice": done + number, "bits": making.slice_bytes(number)}
                cur.execute(_SQL["store_slice"], slice_of)
            made = done + count == slices
            cur.execute(_SQL["note_filter"], {"part": part, "blocks": blocks, "made": made, "keys": keys})
        _log.info(
            "filter made" if made else "filter under way", part=part, slices=done + count, of=slices,
            keys=keys, seconds=round(time.monotonic() - began, 1),
        )  # fmt: skip
        return True

    def _measure(self) -> None:
        metrics = self._metrics
        with self._database.query() as cur:
            cur.execute(_SQL["measure_parts"])
            [(closed, without_filter, keys)] = cur.fetchall()
        metrics.dedupe_parts.show({("closed",): closed, ("without_filter",): without_filter})
        metrics.dedupe_keys.set(keys)


def _choose(small: list[tuple[int, datetime, datetime]], max_span: timedelta) -> list[int]:
    """Return the first parts, given in order of time, that are many enough and near enough to be merged."""
    for start in range(len(small) - _MERGED_PARTS + 1):
        run = small[start : start + _MERGED_PARTS]
        if max(closed for _, _, closed in run) - run[0][1] <= max_span:
            return [part for part, _, _ in run]
    return []


def _add_part(cur: Cursor, making: KeyFilter, table: str, pages: int, stop: Stop) -> int | None:
    """Put a part's keys into a filter; return how many it has, or None if the stop came first."""
    keys = 0
    statement = with_tables(_SQL["read_ids"], table=table)
    for first in range(0, pages, _PAGES_AT_ONCE):
        if stop:
            return None
        sink = BytesIO()
        copy_out(cur, statement, {"first_page": first, "end_page": first + _PAGES_AT_ONCE}, sink)
        pairs = _read_rows(sink.getbuffer())
        making.add(hash_pairs(pairs))
        keys += len(pairs)
    return keys


def _read_rows(data: memoryview) -> Any:
    return np.frombuffer(data, _ROW, (len(data) - _HEAD_BYTES) // _ROW.itemsize, _HEAD_BYTES)
