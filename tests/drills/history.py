"""Histories: what publishers, readers and faults did, one JSON object a line, written as it happens.

An operation begins with `invoke` and ends with `ok`, `fail` (it did not take place) or `unknown` (it may
have). Each line has the monotonic clock, by which the checker orders, and UTC, by which it compares with the
database.
"""

import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from deploy.local.traffic import Event

State = Literal["invoke", "ok", "fail", "unknown"]
Record = dict[str, Any]


class History:
    """An open history: a file, and the same in memory. For many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def invoke(self, kind: str, by: str, **details: Any) -> int:
        """Note that an operation begins; return its number."""
        number = next(self._numbers)
        self._write(kind, "invoke", number, {"by": by, **details})
        return number

    def end(self, kind: str, state: State, number: int, **details: Any) -> None:
        """Note how an operation ended."""
        self._write(kind, state, number, details)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, state: State, number: int, details: Record) -> None:
        with self._lock:
            record = {
                "kind": kind,
                "state": state,
                "number": number,
                "monotonic": time.monotonic(),
                "utc": time.time(),
                **details,
            }
            self.records.append(record)
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()


def read_history(path: Path) -> Iterator[Record]:
    """Yield the records of a file; a last line that was cut off is left out."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def written(events: Iterable[Event]) -> list[list[Any]]:
    """Return events as a history has them: what is counted of each, the cost as text."""
    return [
        [
            event["orgId"], event["eventId"], event["occurredAt"], event["modelId"], event["status"],
            event["inputTokens"], event["outputTokens"], str(event["costEstimateCents"]),
        ]
        for event in events
    ]  # fmt: skip


def operations(history: Iterable[Record], kind: str) -> list[tuple[Record, Record | None]]:
    """Return each operation's begin, and its end if it has one."""
    begun: dict[int, Record] = {}
    ends: dict[int, Record] = {}
    for record in history:
        if record["kind"] == kind:
            (begun if record["state"] == "invoke" else ends)[record["number"]] = record
    return [(record, ends.get(number)) for number, record in begun.items()]
