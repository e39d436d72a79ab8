"""The file: rollups of one job as CSV, from one snapshot, streamed and hashed on the way.

Rollups by model in UTC are written by PostgreSQL as they are stored; other cuts are summed (cut_file.py).
"""

import hashlib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from export_worker.cut_file import write_cut
from export_worker.jobs import Job
from shared.export_job import is_plain
from shared.postgres import Cursor, Database, Sink, copy_out
from shared.statements import load_statements

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Rows arrive one by one; work on pieces of this size keeps the cost of each row small.
_PIECE_BYTES = 128 * 1024

_SQL = load_statements("export_csv.sql")


@dataclass(frozen=True)
class Report:
    """What was written. checksum: SHA-256 of the CSV in hex, before compression.

    complete_since: of events before it the file lacks some, or their dimension's values; None: it has all.
    """

    row_count: int
    checksum: str
    size_bytes: int
    data_as_of: datetime
    complete_since: datetime | None


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
        """Write the whole file.

        Raises NotExportable, and what Database.transaction() and the given write raise.
        """
        with database.transaction(
            repeatable_read=True, read_only=True, time_limit_seconds=time_limit_seconds
        ) as cur:
            cur.execute(_SQL["snapshot_time"])
            row = cur.fetchone()
            assert row is not None  # noqa: S101  SELECT now() has one row
            data_as_of: datetime = row[0].astimezone(UTC)
            buffer = io.BufferedWriter(self._pieces, _PIECE_BYTES)
            try:
                if is_plain(self._job.group_by, self._job.time_zone):
                    row_count, complete_since = self._write_plain(cur, buffer)
                else:
                    row_count, complete_since = write_cut(
                        self._job,
                        database,
                        cur,
                        buffer,
                        as_of=data_as_of,
                        time_limit_seconds=time_limit_seconds,
                    )
                buffer.flush()
            except BaseException:
                self._pieces.abandon()
                raise
        checksum = self._pieces.end()
        return Report(row_count, checksum, self._pieces.size_bytes, data_as_of, complete_since)

    def _write_plain(self, cur: Cursor, sink: Sink) -> tuple[int, datetime | None]:
        job = self._job
        cur.execute(_SQL["kept_since"])
        [(kept_since,)] = cur.fetchall()
        # Of what retention has begun to remove nothing is shown, as in answers.
        is_whole = kept_since is None or kept_since <= job.window_start
        window = {
            "org_id": job.org_id,
            "window_start": job.window_start if is_whole else kept_since,
            "window_end": job.window_end,
            "models": job.models,
        }
        row_count = copy_out(cur, _SQL[job.granularity], window, sink)
        return row_count, None if is_whole else kept_since
