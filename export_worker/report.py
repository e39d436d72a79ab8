"""The file: rollups of one job as CSV, from one snapshot, streamed and hashed on the way."""

import hashlib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from export_worker.jobs import Job
from shared.postgres import Database, copy_out
from shared.statements import load_statements

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Rows arrive one by one; work on pieces of this size keeps the cost of each row small.
_PIECE_BYTES = 128 * 1024

_SQL = load_statements("export_csv.sql")


@dataclass(frozen=True)
class Report:
    """What was written. checksum: SHA-256 of the CSV in hex, before compression."""

    row_count: int
    checksum: str
    size_bytes: int
    data_as_of: datetime


class _Pieces(io.RawIOBase):
    """Takes the CSV in pieces, hashes and counts them, and passes them on, compressed if asked for."""

    def __init__(self, write: Callable[[bytes], None], *, compress: bool) -> None:
        self._write = write
        self._digest = hashlib.sha256()
        self._gzip = zlib.compressobj(wbits=31) if compress else None
        self.lines = 0
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: "ReadableBuffer", /) -> int:
        data = bytes(piece)
        self._digest.update(data)
        self.lines += data.count(b"\n")
        self._pass_on(self._gzip.compress(data) if self._gzip else data)
        return len(data)

    def abandon(self) -> None:
        """Swallow what is still written: a buffer in front of this writes its rest when it goes away."""
        self._write = lambda _: None

    def end(self) -> str:
        """Pass on what compression held back; return the checksum."""
        if self._gzip:
            self._pass_on(self._gzip.flush())
        return self._digest.hexdigest()

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._write(data)
            self.size_bytes += len(data)


class CsvReport:
    """Writes one job's file."""

    def __init__(self, job: Job, write: Callable[[bytes], None]) -> None:
        self._job = job
        self._pieces = _Pieces(write, compress=job.compress)

    @property
    def rows_done(self) -> int:
        """About how many rows were written so far: a name with a line break in it counts as two."""
        return max(0, self._pieces.lines - 1)

    def run(self, database: Database, *, time_limit_seconds: float) -> Report:
        """Write the whole file. Raises what Database.transaction() and the given write raise."""
        job = self._job
        window = {
            "org_id": job.org_id,
            "window_start": job.window_start,
            "window_end": job.window_end,
            "models": job.models,
        }
        with database.transaction(
            repeatable_read=True, read_only=True, time_limit_seconds=time_limit_seconds
        ) as cur:
            cur.execute(_SQL["snapshot_time"])
            row = cur.fetchone()
            assert row is not None  # noqa: S101  SELECT now() has one row
            data_as_of: datetime = row[0].astimezone(UTC)
            buffer = io.BufferedWriter(self._pieces, _PIECE_BYTES)
            try:
                row_count = copy_out(cur, _SQL[job.granularity], window, buffer)
                buffer.flush()
            except BaseException:
                self._pieces.abandon()
                raise
        checksum = self._pieces.end()
        return Report(row_count, checksum, self._pieces.size_bytes, data_as_of)
